"""Is one way of training better than another? Paired tests over items, seeds and tasks.

A run's predictions on a test set are resampled by item and, with several seeds, by seed (bootstrap,
percentiles; Efron and Tibshirani 1993, chapters 13 and 16): the interval then tells what another
test set of the kind and other seeds could have given. Two ways to train are compared on the same
resampled items and seeds, which takes out what both find easy. Over many tasks the differences are
also put to the Wilcoxon signed-rank test, which does not assume that they are normal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modules.evaluation.metrics import SumMetric, chunks
from modules.task import Metric

Array = NDArray[np.float64]
SAMPLES = 2000


@dataclass(frozen=True)
class Outcomes:
    """What the runs of one way to train said about one test set, a list a seed."""

    ids: tuple[str, ...]
    predictions: tuple[tuple[Any, ...], ...]
    references: tuple[Any, ...]

    def values(self, metric: Metric) -> list[float]:
        """Return the metric of each seed's run."""
        return [metric(list(run), list(self.references)) for run in self.predictions]


@dataclass(frozen=True)
class Difference:
    """How much more one way scores than the other: mean, 95 % interval, two-sided p value."""

    mean: float
    low: float
    high: float
    p: float

    @property
    def significant(self) -> bool:
        """Whether chance alone gives as much in less than 5 of 100 cases."""
        return self.p < 0.05


def outcomes(runs: Sequence[Sequence[dict[str, Any]]]) -> Outcomes:
    """Return the rows (id, prediction, label) of several seeds' predictions, item by item.

    Raises:
        ValueError: the runs are not about the same items.
    """
    ids, labels = _items(runs[0])
    for run in runs[1:]:
        if _items(run) != (ids, labels):
            raise ValueError("the runs of a cell are about different items: not comparable")
    guesses = tuple(tuple(row["prediction"] for row in run) for run in runs)
    return Outcomes(ids, guesses, labels)


def _items(run: Sequence[dict[str, Any]]) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    return tuple(str(row["id"]) for row in run), tuple(row["label"] for row in run)


def resampled(metric: Metric, given: Outcomes, *, samples: int = SAMPLES, seed: int = 0) -> Array:
    """Return (samples,) means over seeds of the metric on resampled items and seeds.

    Calls with one `seed` draw the same items and the same places among the seeds.
    """
    n, runs = len(given.ids), len(given.predictions)
    random = np.random.default_rng(seed)
    places = random.integers(0, runs, (samples, runs))
    values = np.empty((samples, runs))
    start = 0
    for size in chunks(samples, max(1, 2**22 // n)):  # at most 32 MB of weights
        weights = random.multinomial(n, np.full(n, 1 / n), size)  # (size, n)
        for run, guesses in enumerate(given.predictions):
            values[start : start + size, run] = _weighed(metric, guesses, given.references, weights)
        start += size
    means: Array = np.take_along_axis(values, places, 1).mean(1)
    return means


def _weighed(
    metric: Metric, guesses: Sequence[Any], truth: Sequence[Any], weights: NDArray[np.int64]
) -> Array:
    """Return the metric with each item counted as often as each row of weights (size, n) says."""
    if isinstance(metric, SumMetric):
        found: Array = metric.combine(weights @ metric.statistics(guesses, truth))
        return found
    picks = (np.repeat(np.arange(len(row)), row).tolist() for row in weights)
    return np.array([metric([guesses[i] for i in p], [truth[i] for i in p]) for p in picks])


def interval_of(draws: Array) -> tuple[float, float]:
    """Return the 95 % interval of bootstrap draws."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def difference(first: Array, second: Array, mean: float) -> Difference:
    """Compare two ways by their draws from the same items and seeds.

    p is twice the share of draws on the rarer side of 0, both counted with one draw more: a share
    of none says less than 1 in `samples`, not 0.
    """
    draws = first - second
    tail = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return Difference(mean, *interval_of(draws), min(1.0, 2 * (tail + 1) / (len(draws) + 1)))


def signed_rank(differences: Sequence[float]) -> float:
    """Return the Wilcoxon signed-rank test's two-sided p over pairs; 1 where none differ."""
    from scipy.stats import wilcoxon

    if not any(differences):
        return 1.0
    return float(wilcoxon(differences).pvalue)
