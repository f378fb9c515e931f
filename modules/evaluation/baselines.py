"""What a fine-tuning task gives without a language model: the floor to beat.

Majority class, and logistic regression on TF-IDF of word 1-2-grams of the joined text. Multiple
choice ranks the answers by what text and answer share: the product of their TF-IDF vectors, and its
sum, their cosine (a joined text cannot tell which words are shared). Where the label is a score,
the mean stands for the majority, whose correlation is 0, and ridge regression for logistic.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modules.evaluation.metrics import interval
from modules.task import Example, Score, Task, load_split


def majority(task: Task, data: Path, split: str = "", metric: str = "") -> Score:
    """Score the training split's most frequent label on a split; none: the task's headlines."""
    train = load_examples(task, data, "train")
    test = load_examples(task, data, split or task.scored[0])
    guess = most_frequent(train) if task.scale is None else mean_label(train)
    return score_of(task, [guess] * len(test), test, split, metric, {"baseline": "majority"})


def most_frequent(examples: Sequence[Example]) -> float:
    """Return the most frequent label, the lowest of several."""
    counts = Counter(example.label for example in examples)
    return min(counts, key=lambda label: (-counts[label], label))


def mean_label(examples: Sequence[Example]) -> float:
    """Return the mean score."""
    return sum(example.label for example in examples) / len(examples)


def tfidf(task: Task, data: Path, split: str = "", metric: str = "") -> Score:
    """Score TF-IDF and logistic regression, fitted on the training split, on a split."""
    train = load_examples(task, data, "train")
    test = load_examples(task, data, split or task.scored[0])
    if task.format == "multiple_choice":
        predictions: list[float] = [*rank_answers(train, test)]
    else:
        model = regression(task).fit([joined(e, 0) for e in train], [e.label for e in train])
        predictions = model.predict([joined(example, 0) for example in test]).tolist()
    kind = "logistic" if task.scale is None else "ridge"
    protocol = {"baseline": f"tfidf {kind} regression", "train": len(train)}
    return score_of(task, predictions, test, split, metric, protocol)


def rank_answers(train: Sequence[Example], test: Sequence[Example]) -> list[int]:
    """Pick each item's answer that goes best with its text."""
    from sklearn.linear_model import LogisticRegression

    vectors = word_vectors().fit([" ".join(pair) for example in train for pair in example.texts])
    labels = [int(e.label == k) for e in train for k in range(len(e.texts))]
    model = LogisticRegression(C=10, max_iter=1000).fit(shared_words(vectors, train), labels)
    scores = iter(model.decision_function(shared_words(vectors, test)).tolist())
    predictions = []
    for example in test:
        own = [next(scores) for _ in example.texts]
        predictions.append(own.index(max(own)))
    return predictions


def shared_words(vectors: Any, examples: Sequence[Example]) -> Any:
    """Return (answers, words + 1): the product of both sides' vectors and ten times its sum."""
    from scipy.sparse import csr_matrix, hstack

    pairs = [pair for example in examples for pair in example.texts]
    product = vectors.transform([text for text, _ in pairs]).multiply(
        vectors.transform([answer for _, answer in pairs])
    )
    return hstack([product, csr_matrix(10 * product.sum(1))]).tocsr()


def word_vectors() -> Any:
    """Return TF-IDF of word 1-2-grams."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)


def regression(task: Task) -> Any:
    """Return the pipeline to fit; deterministic (lbfgs; ridge in closed form)."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline

    model = LogisticRegression(max_iter=1000) if task.scale is None else Ridge()
    return make_pipeline(word_vectors(), model)


def joined(example: Example, sequence: int) -> str:
    """Return a sequence's segments as one text."""
    return " ".join(example.texts[sequence])


def load_examples(task: Task, data: Path, split: str) -> list[Example]:
    """Return a split's examples.

    Raises:
        ValueError: the task is not one to be fine-tuned, or the split's labels are withheld.
    """
    if "train" not in task.splits:
        raise ValueError(f"task {task.name} ({task.format}) has no training split to learn from")
    found = load_split(task, data, split)
    if not found.labelled:
        raise ValueError(f"task {task.name}: the labels of {split} are withheld: no score of it")
    examples: list[Example] = task.items(found.rows)
    return examples


def score_of(
    task: Task,
    predictions: list[float],
    test: Sequence[Example],
    split: str,
    metric: str,
    protocol: dict[str, Any],
) -> Score:
    """Return one metric of the task with its interval."""
    split, metric = split or task.scored[0], metric or next(iter(task.metrics))
    measure, labels = task.metrics[metric], [example.label for example in test]
    value = measure(predictions, labels)
    low, high = interval(measure, predictions, labels)
    return Score(task.name, metric, value, len(test), low, high, split, task.version, protocol)
