"""How far a classifier's probabilities can be believed, and what it takes for what.

Reliability and temperature scaling follow Guo et al. 2017 ("On Calibration of Modern Neural
Networks", sections 2 and 4.2). N examples, K classes or answers; probabilities are (N, K) float64,
0 where an example has fewer answers.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Whole = NDArray[np.int64]
Binning = Literal["equal_width", "equal_mass"]

N_BINS = 15  # Guo et al. 2017, section 5
BINNINGS: tuple[Binning, ...] = ("equal_width", "equal_mass")
TINY = 1e-30  # the least probability whose logarithm is taken
COLDEST, HOTTEST = 0.05, 20.0  # between these a temperature is looked for


def stack(rows: Sequence[Sequence[float]]) -> Array:
    """Return rows of probabilities as one array (N, K), each row adding up to 1.

    Raises:
        ValueError: there are none.
    """
    if not rows:
        raise ValueError("no predictions: nothing to calibrate")
    out = np.zeros((len(rows), max(map(len, rows))))
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out / out.sum(1, keepdims=True)


def edges(confidence: Array, binning: Binning, n_bins: int) -> Array:
    """Return the upper ends of all bins but the last; equal confidences share a bin."""
    if binning == "equal_width":
        return np.linspace(0, 1, n_bins + 1)[1:-1]
    ends = np.arange(1, n_bins) * len(confidence) // n_bins  # examples up to each edge
    return np.unique(np.sort(confidence)[ends[ends > 0] - 1])


def reliability(
    probabilities: Array, labels: Whole, binning: Binning = "equal_width", n_bins: int = N_BINS
) -> list[dict[str, float]]:
    """Return the bins of classifications: see `bins`."""
    return bins(probabilities.max(1), probabilities.argmax(1) == labels, binning, n_bins)


def bins(
    confidence: Array, right: NDArray[np.bool_], binning: Binning, n_bins: int = N_BINS
) -> list[dict[str, float]]:
    """Return each bin that holds answers: {low, high, n, confidence, accuracy}."""
    inner = edges(confidence, binning, n_bins)
    place = np.searchsorted(inner, confidence, side="left")  # low < confidence <= high
    low, high = np.concatenate([[0.0], inner]), np.concatenate([inner, [1.0]])
    return [
        {
            "low": float(low[i]),
            "high": float(high[i]),
            "n": int((place == i).sum()),
            "confidence": float(confidence[place == i].mean()),
            "accuracy": float(right[place == i].mean()),
        }
        for i in np.unique(place)
    ]


def expected_error(found: Sequence[dict[str, float]]) -> float:
    """Return the expected calibration error: the bins' mean gap, weighed by their examples."""
    total = sum(b["n"] for b in found)
    return sum(b["n"] * abs(b["accuracy"] - b["confidence"]) for b in found) / total


def brier(probabilities: Array, labels: Whole) -> float:
    """Return the mean squared distance from the truth over all classes (Brier 1950): 0 to 2."""
    truth = np.eye(probabilities.shape[1])[labels]
    return float(((probabilities - truth) ** 2).sum(1).mean())


def log_loss(probabilities: Array, labels: Whole) -> float:
    """Return the mean negative log-likelihood of the truth, nats."""
    return float(
        -np.log(np.maximum(np.take_along_axis(probabilities, labels[:, None], 1), TINY)).mean()
    )


def heat(probabilities: Array, temperature: float) -> Array:
    """Return softmax(logits / temperature): the order of classes stays as it is."""
    logits = np.log(np.maximum(probabilities, TINY)) / temperature
    logits -= logits.max(1, keepdims=True)
    powers = np.where(probabilities > 0, np.exp(logits), 0.0)
    return powers / powers.sum(1, keepdims=True)


def fit_temperature(probabilities: Array, labels: Whole) -> float:
    """Return the temperature of the least log loss, between 0.05 and 20 (Guo et al., section 4.2).

    The loss is convex in 1 / temperature, so its slope has one zero and halving finds it.
    """
    logits = np.log(np.maximum(probabilities, TINY))
    target = np.take_along_axis(logits, labels[:, None], 1).mean()
    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(60):  # halves the bracket below a float64's digits
        middle = (low + high) / 2
        slope = (heat(probabilities, 1 / middle) * logits).sum(1).mean() - target
        low, high = (low, middle) if slope > 0 else (middle, high)
    return 2 / (low + high)


def summary(probabilities: Array, labels: Whole) -> dict[str, float]:
    """Return the calibration numbers of a set of predictions."""
    return {
        "accuracy": float((probabilities.argmax(1) == labels).mean()),
        "confidence": float(probabilities.max(1).mean()),
        "log_loss": log_loss(probabilities, labels),
        "brier": brier(probabilities, labels),
        **{
            f"ece_{binning}": expected_error(reliability(probabilities, labels, binning))
            for binning in BINNINGS
        },
    }


def confusion(predictions: Whole, labels: Whole, n_classes: int) -> Whole:
    """Return how often each class (row) was taken for each class (column): (K, K)."""
    counts = np.bincount(labels * n_classes + predictions, minlength=n_classes**2)
    return counts.reshape(n_classes, n_classes)


def by_class(matrix: Whole) -> list[dict[str, float]]:
    """Return {precision, recall, f1, support} of each class; 0 where nothing is divided by 0."""
    hits, taken, support = matrix.diagonal(), matrix.sum(0), matrix.sum(1)
    return [
        {
            "precision": float(hit / max(t, 1)),
            "recall": float(hit / max(s, 1)),
            "f1": float(2 * hit / max(t + s, 1)),
            "support": int(s),
        }
        for hit, t, s in zip(hits, taken, support, strict=True)
    ]


def worst(probabilities: Array, labels: Whole, n: int) -> list[int]:
    """Return the examples that are wrong with the most confidence, most confident first."""
    confidence = probabilities.max(1)
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    order: list[int] = wrong[np.argsort(-confidence[wrong], kind="stable")][:n].tolist()
    return order


def diagnosis(
    probabilities: Array, labels: Whole, names: Sequence[str], validation: tuple[Array, Whole]
) -> dict[str, Any]:
    """Return all of the above for one set; the temperature is fitted on the validation set.

    Nothing applies that temperature: "scaled" says what it would give.
    """
    temperature = fit_temperature(*validation)
    matrix = confusion(probabilities.argmax(1), labels, len(names))
    return {
        "n": len(labels),
        "labels": list(names),
        "confusion": matrix.tolist(),
        "classes": by_class(matrix),
        "calibration": summary(probabilities, labels),
        "bins": {binning: reliability(probabilities, labels, binning) for binning in BINNINGS},
        "temperature": temperature,
        "scaled": summary(heat(probabilities, temperature), labels),
    }
