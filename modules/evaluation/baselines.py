"""What a fine-tuning task gives without a language model: the floor to beat.

Majority class, and logistic regression on TF-IDF of word 1-2-grams of the joined text. Multiple
choice ranks the answers by what text and answer share: the product of their TF-IDF vectors, and its
sum, their cosine (a joined text cannot tell which words are shared).
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modules.evaluation.metrics import accuracy, interval
from modules.task import Example, Score, Task, load_rows


def majority(task: Task, data: Path, split: str = "test") -> Score:
    """Score the training split's most frequent label on a split."""
    train, test = load_examples(task, data, "train"), load_examples(task, data, split)
    counts = Counter(int(example.label) for example in train)
    label = min(counts, key=lambda label: (-counts[label], label))
    return accuracy_score(task, [label] * len(test), test, split, {"baseline": "majority"})


def tfidf(task: Task, data: Path, split: str = "test") -> Score:
    """Score TF-IDF and logistic regression, fitted on the training split, on a split."""
    train, test = load_examples(task, data, "train"), load_examples(task, data, split)
    if task.format == "multiple_choice":
        predictions = rank_answers(train, test)
    else:
        model = fit([joined(example, 0) for example in train], [int(e.label) for e in train])
        found = model.predict([joined(example, 0) for example in test])
        predictions = [int(label) for label in found]
    protocol = {"baseline": "tfidf logistic regression", "train": len(train)}
    return accuracy_score(task, predictions, test, split, protocol)


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


def fit(texts: Sequence[str], labels: Sequence[int]) -> Any:
    """Fit the pipeline; deterministic (lbfgs)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    return make_pipeline(word_vectors(), LogisticRegression(max_iter=1000)).fit(texts, labels)


def joined(example: Example, sequence: int) -> str:
    """Return a sequence's segments as one text."""
    return " ".join(example.texts[sequence])


def load_examples(task: Task, data: Path, split: str) -> list[Example]:
    """Return a split's examples.

    Raises:
        ValueError: the task is not one to be fine-tuned.
    """
    if "train" not in task.splits:
        raise ValueError(f"task {task.name} ({task.format}) has no training split to learn from")
    examples: list[Example] = task.items(load_rows(task, data, split))
    return examples


def accuracy_score(
    task: Task,
    predictions: Sequence[float],
    test: Sequence[Example],
    split: str,
    protocol: dict[str, Any],
) -> Score:
    """Return the accuracy with its interval."""
    labels = [example.label for example in test]
    low, high = interval(accuracy, predictions, labels)
    value = accuracy(predictions, labels)
    return Score(task.name, "accuracy", value, len(test), low, high, split, task.version, protocol)
