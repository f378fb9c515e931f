"""Several corpora in one run: which one a row comes from is a pure function of its number.

Rows repeat a pattern of CYCLE rows in which every corpus has its share, spread as evenly as can be:
the k-th row of a corpus with n of them stands near (k + 1/2) / n of the cycle. So shares are exact
over a cycle and within about a row anywhere, each corpus is read in its own order, epoch by epoch,
and a row's number there has a closed form.
"""

from collections.abc import Sequence

import numpy as np

from modules.training.windows import Rows

CYCLE = 2**16


class Mixture:
    """Rows of several sources, in fixed shares."""

    def __init__(self, sources: Sequence[Rows], weights: Sequence[float]) -> None:
        """Take the sources and their weights, of any sum."""
        self.sources = sources
        self.counts = shares(np.array(weights, dtype=np.float64))  # (sources,)
        times = np.concatenate([(np.arange(n) + 0.5) / n for n in self.counts])
        owners = np.repeat(np.arange(len(sources)), self.counts)
        by_time = np.argsort(times, kind="stable")
        self.pattern = owners[by_time]  # (CYCLE,) source of each row
        numbers = np.concatenate([np.arange(n) for n in self.counts])
        self.number = numbers[by_time]  # (CYCLE,) its number among the source's rows

    @property
    def per_epoch(self) -> int:
        """Rows of all sources, each once."""
        return sum(source.per_epoch for source in self.sources)

    def rows(self, samples: np.ndarray) -> np.ndarray:
        """Return the rows (N, context + 1) of samples."""
        cycles, places = np.divmod(samples, CYCLE)
        which = self.pattern[places]
        own = cycles * self.counts[which] + self.number[places]
        parts = {int(k): self.sources[k].rows(own[which == k]) for k in np.unique(which)}
        out = np.empty((len(samples), next(iter(parts.values())).shape[1]), dtype=np.int64)
        for k, rows in parts.items():
            out[which == k] = rows
        return out


def shares(weights: np.ndarray) -> np.ndarray:
    """Return how many rows of a cycle each weight gets: the largest remainders are rounded up.

    Raises:
        ValueError: a weight is not positive, or gives no row.
    """
    if (weights <= 0).any() or (weights / weights.sum() * CYCLE < 1).any():
        raise ValueError(f"weights {weights.tolist()}: each must give a row of {CYCLE}")
    exact = weights / weights.sum() * CYCLE
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: CYCLE - counts.sum()]] += 1
    return counts
