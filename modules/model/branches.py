"""Rows that branch: a beginning read once and several continuations of it, side by side.

A row holds the tokens of the beginning, then those of every branch. A token sees the beginning and
its own branch as far as itself, and has the position that it has in the branch's own text, so its
features are those of reading that text alone. B rows, T tokens.
"""

import torch
from torch import Tensor

STEM, PADDING = 0, -1  # branches are numbered from 1


class Branches:
    """What GPT.forward takes in the place of a cache: who sees whom in branching rows."""

    empty = True  # nothing was read before

    def __init__(self, positions: Tensor, branch: Tensor, dtype: torch.dtype) -> None:
        self.positions, n = positions, positions.shape[1]  # (B, T)
        earlier = positions[:, None, :] <= positions[:, :, None]  # (B, T, T): key j, query i
        mine = branch[:, None, :] == branch[:, :, None]
        seen = earlier & (mine | (branch == STEM)[:, None, :])
        self.mask = torch.zeros(len(positions), 1, n, n, dtype=dtype, device=positions.device)
        self.mask.masked_fill_(~seen[:, None], float("-inf"))

    def open(self, n: int) -> Tensor:
        """Return the positions (B, T) of the tokens."""
        assert n == self.positions.shape[1], f"{n} tokens for {self.positions.shape[1]} positions"
        return self.positions

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values as they are: there are no older ones."""
        return k, v

    def close(self, lengths: list[int] | None) -> None:
        """Keep nothing."""
