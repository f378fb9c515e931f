"""Rows of tokens by sample number, from memory-mapped shards: what a micro-batch is made of.

A sample is one row of context + 1 tokens: the inputs and, one further, the targets. Which tokens
it holds follows from (seed, sample number) alone (DESIGN.md, decision 4). Places are computed a
block of samples ahead and rows are copied in blocks, as numpy's calls cost more than its work.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from modules.corpus.token_file import TokenFile
from modules.training.order import Windows, check_windows

AHEAD = 4096  # samples whose places are computed at once


class Rows(Protocol):
    """Rows by sample number, each read once an epoch."""

    @property
    def per_epoch(self) -> int:
        """Samples in one epoch."""

    def rows(self, samples: np.ndarray) -> np.ndarray:
        """Return the rows (N, context + 1) of samples, numbered from the start of training."""


class Ahead:
    """A pure function of sample numbers, computed a block ahead and remembered."""

    def __init__(self, function: Callable[[np.ndarray], np.ndarray]) -> None:
        self.function, self.first, self.values = function, 0, np.empty(0, dtype=np.int64)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Return the function's values at samples that lie near one another."""
        low, high = int(samples.min()), int(samples.max())
        if low < self.first or high >= self.first + len(self.values):
            self.first = low
            self.values = self.function(np.arange(low, max(low + AHEAD, high + 1)))
        return self.values[samples - self.first]


class Stream:
    """Windows of one stream of tokens, cut without regard to documents (GPT-2's way)."""

    def __init__(self, tokens: TokenFile, context: int, seed: int) -> None:
        """Take the tokens of a split.

        Raises:
            ValueError: they hold no window.
        """
        self.tokens, self.windows = tokens, Windows(len(tokens), context, seed)
        check_windows(self.windows)
        self._starts = Ahead(self.windows.starts)

    @property
    def per_epoch(self) -> int:
        """Windows in one epoch."""
        return self.windows.per_epoch

    def rows(self, samples: np.ndarray) -> np.ndarray:
        """Return the windows (N, context + 1) of samples."""
        return self.tokens.rows(self._starts(samples), self.windows.context + 1)


def inputs_and_targets(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return tokens and targets (B, T) of rows (B, T + 1); -100, at a row's end, is not scored."""
    return rows[:, :-1].clamp(min=0), rows[:, 1:]


def cut(rows: Tensor, context: int) -> Tensor:
    """Cut rows (B, T + 1) into (B * T / context, context + 1): each token is predicted once."""
    if rows.shape[1] == context + 1:
        return rows
    return rows.unfold(1, context + 1, context).flatten(0, 1)


def held_out(tokens: TokenFile, context: int, n: int) -> Tensor | None:
    """Return up to n windows (n, context + 1) evenly spread over a split; None if it has none."""
    available = (len(tokens) - 1) // context
    if available < 1:
        return None
    places = np.unique(np.linspace(0, available - 1, min(n, available)).round().astype(np.int64))
    return torch.from_numpy(tokens.rows(places * context, context + 1))
