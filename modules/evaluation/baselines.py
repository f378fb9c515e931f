"""What a fine-tuning task gives without a language model: the floor to beat.

Majority class, and logistic regression on TF-IDF of word 1-2-grams of the joined text. Multiple
choice ranks the answers by the probability that (text, answer) is a right pair.
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
    counts = Counter(example.label for example in train)
    label = min(counts, key=lambda label: (-counts[label], label))
    return accuracy_score(task, [label] * len(test), test, split, {"baseline": "majority"})


def tfidf(task: Task, data: Path, split: str = "test") -> Score:
    """Score TF-IDF and logistic regression, fitted on the training split, on a split."""
    train, test = load_examples(task, data, "train"), load_examples(task, data, split)
    if task.format == "multiple_choice":
        predictions = rank_answers(train, test)
    else:
        model = fit([joined(example, 0) for example in train], [e.label for e in train])
        found = model.predict([joined(example, 0) for example in test])
        predictions = [int(label) for label in found]
    protocol = {"baseline": "tfidf logistic regression", "train": len(train)}
    return accuracy_score(task, predictions, test, split, protocol)


def rank_answers(train: Sequence[Example], test: Sequence[Example]) -> list[int]:
    """Pick each item's answer that looks most like a right one."""
    keys = [(example, k) for example in train for k in range(len(example.texts))]
    model = fit([joined(e, k) for e, k in keys], [int(e.label == k) for e, k in keys])
    predictions = []
    for example in test:
        texts = [joined(example, k) for k in range(len(example.texts))]
        predictions.append(int(model.decision_function(texts).argmax()))
    return predictions


def fit(texts: Sequence[str], labels: Sequence[int]) -> Any:
    """Fit the pipeline; deterministic (lbfgs)."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    return make_pipeline(vectors, LogisticRegression(max_iter=1000)).fit(texts, labels)


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
    predictions: Sequence[int],
    test: Sequence[Example],
    split: str,
    protocol: dict[str, Any],
) -> Score:
    """Return the accuracy with its interval."""
    labels = [example.label for example in test]
    low, high = interval(accuracy, predictions, labels)
    value = accuracy(predictions, labels)
    return Score(task.name, "accuracy", value, len(test), low, high, split, task.version, protocol)
