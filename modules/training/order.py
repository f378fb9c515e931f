"""Data order as a pure function: (seed, index) -> which window or example, for any worker or rank.

Nothing here has a position of its own: a run is resumed by starting at another integer (DESIGN.md,
decision 4). A permutation is computed index by index with a Feistel network, so a corpus of
billions of tokens needs no shuffled list in memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

MASK = 2**64 - 1
ROUNDS = 6  # 4 suffice against distinguishers at these sizes (Luby-Rackoff); two to spare


def mix(*numbers: int) -> int:
    """Hash integers to one 64-bit integer (splitmix64), the same on every machine."""
    state = 0
    for number in numbers:
        state = (state + (number & MASK) + 0x9E3779B97F4A7C15) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        state ^= state >> 31
    return state


def _mix_array(x: np.ndarray) -> np.ndarray:
    """Hash every 64-bit integer of an array (splitmix64's finaliser)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permute(indices: np.ndarray, n: int, key: int) -> np.ndarray:
    """Return where a keyed permutation of range(n) sends each index.

    A Feistel network permutes the next power of four; indices that land outside range(n) walk on
    along their cycle until they are inside, which keeps it a permutation.
    """
    assert n > 0 and (indices < n).all() and (indices >= 0).all()
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    low = np.uint64(2 ** int(half) - 1)
    keys = [np.uint64(mix(key, r)) for r in range(ROUNDS)]

    def network(x: np.ndarray) -> np.ndarray:
        left, right = x >> half, x & low
        for k in keys:
            left, right = right, left ^ (_mix_array(right + k) & low)
        return (left << half) | right

    out = network(indices.astype(np.uint64))
    while (outside := out >= n).any():
        out[outside] = network(out[outside])
    return out.astype(np.int64)


def shuffled(samples: np.ndarray, per_epoch: int, seed: int) -> np.ndarray:
    """Return which of `per_epoch` things each sample is: another permutation every epoch."""
    epochs, places = np.divmod(samples, per_epoch)
    out = np.empty_like(samples)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        out[here] = permute(places[here], per_epoch, mix(seed, int(epoch), 2))
    return out


@dataclass(frozen=True)
class Windows:
    """Every epoch cuts the corpus into windows of `context` tokens and reads each once.

    The cut starts at a new offset each epoch, so that windows do not begin at the same tokens for
    ever; no token is predicted twice within an epoch.
    """

    tokens: int
    context: int
    seed: int

    @property
    def per_epoch(self) -> int:
        """Windows in one epoch: any offset below `context` leaves room for this many."""
        return (self.tokens - self.context) // self.context

    def starts(self, samples: np.ndarray) -> np.ndarray:
        """Return the first token's position of each sample (numbered from the start of training).

        A window holds context + 1 tokens: the inputs and, one further, the targets.
        """
        epochs, which = np.unique(samples // self.per_epoch, return_inverse=True)
        offsets = np.array([mix(self.seed, int(epoch), 1) % self.context for epoch in epochs])
        return offsets[which] + shuffled(samples, self.per_epoch, self.seed) * self.context


def check_windows(windows: Windows) -> None:
    """Refuse a corpus that holds no window.

    Raises:
        ValueError: naming how many tokens there are and how many are needed.
    """
    if windows.per_epoch < 1:
        raise ValueError(
            f"the training split has {windows.tokens} tokens; a context of {windows.context} "
            f"needs at least {2 * windows.context}"
        )


class Steps(IterableDataset):
    """Batches of steps start .. stop - 1, each computed from its number alone.

    Worker w of n computes every n-th step; the loader takes the workers in turn, so the order is
    the same for any number of them.
    """

    def __init__(self, make: Callable[[int], Any], *, start: int, stop: int) -> None:
        """Take make(step) -> the list of micro-batches of that step."""
        self.make, self.start, self.stop = make, start, stop

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of this worker's steps."""
        worker = get_worker_info()
        first, every = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in range(self.start + first, self.stop, every):
            yield self.make(step)


def loader(steps: Steps, *, workers: int = 0, pin: bool = False) -> torch.utils.data.DataLoader:
    """Wrap steps in a DataLoader that passes the batches on as they are."""
    return torch.utils.data.DataLoader(steps, batch_size=None, num_workers=workers, pin_memory=pin)
