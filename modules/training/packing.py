"""Rows of whole documents: best-fit packing.

Ding et al. 2024, "Fewer Truncations Improve Language Modeling", section 2: 4.7 % better reading
comprehension, 16.8 % better context following than streams that are cut anywhere.

A document that fits into a row is never cut. A longer one is cut into full rows and a rest. The
pieces fill rows, longest first, each where the least room is left. Every token of the split is
predicted once an epoch; what stays empty at a row's end is not scored (under 1 % of the positions
in the paper). Attention is not masked: a document sees what stands before it in its row, as it does
in a stream. The index is computed once, from the places of end-of-text: 16 bytes a piece.
"""

from functools import partial

import numpy as np

from modules.corpus.token_file import TokenFile
from modules.model.base import IGNORED
from modules.training.order import shuffled
from modules.training.windows import Ahead


class Packed:
    """Rows of whole documents, in a new order each epoch."""

    def __init__(
        self,
        tokens: TokenFile,
        context: int,
        seed: int,
        spans: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        """Pack the documents of a split: all, or those of these starts and lengths.

        Raises:
            ValueError: it is empty.
        """
        self.tokens, self.context = tokens, context
        starts, lengths = pieces(*(spans or documents(tokens)), context)
        if not len(starts):
            raise ValueError(f"the {tokens.split} split of {tokens.directory} has no tokens")
        rows = best_fit(lengths, context)
        by_row = np.argsort(rows, kind="stable")
        self.starts, self.lengths = starts[by_row], lengths[by_row]  # (pieces,)
        self.first = np.searchsorted(rows[by_row], np.arange(rows.max() + 2))  # (rows + 1,)
        self._order = Ahead(partial(shuffled, per_epoch=self.per_epoch, seed=seed))

    @property
    def per_epoch(self) -> int:
        """Rows in one epoch."""
        return len(self.first) - 1

    def rows(self, samples: np.ndarray) -> np.ndarray:
        """Return the rows (N, context + 1) of samples; -100 where a row is empty."""
        return self.read(self._order(samples))

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return packed rows (N, context + 1): the token before, then the pieces."""
        first, n = self.first[rows], self.first[rows + 1] - self.first[rows]  # (N,)
        which = spread(first, n)  # (pieces of these rows,)
        starts, lengths = self.starts[which], self.lengths[which]
        filled = np.add.reduceat(lengths, np.cumsum(n) - n)  # (N,)
        out = np.full((len(rows), self.context + 1), IGNORED, dtype=np.int64)
        scored = np.arange(self.context) < filled[:, None]  # (N, context)
        out[:, 1:][scored] = self.tokens.rows(spread(starts, lengths), 1)[:, 0]
        before = self.starts[first] - 1
        out[:, 0] = np.where(before < 0, self.tokens.eot, self.tokens.rows(before.clip(0), 1)[:, 0])
        return out


def spread(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the numbers start .. start + length - 1 of every pair, one after the other."""
    begins = np.cumsum(lengths) - lengths
    return np.repeat(starts - begins, lengths) + np.arange(int(lengths.sum()))


def documents(tokens: TokenFile) -> tuple[np.ndarray, np.ndarray]:
    """Return starts and lengths of a split's documents, end-of-text included (N,)."""
    ends = tokens.positions_of(tokens.eot) + 1
    if len(tokens) and (not len(ends) or ends[-1] < len(tokens)):
        ends = np.append(ends, len(tokens))
    return np.append(0, ends[:-1])[: len(ends)], np.diff(ends, prepend=0)


def pieces(starts: np.ndarray, lengths: np.ndarray, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut documents into pieces of at most `context` tokens; return their starts and lengths."""
    n = -(-lengths // context)  # pieces of each
    which = np.repeat(np.arange(len(lengths)), n)
    done = spread(np.zeros_like(n), n) * context  # tokens of the document before this piece
    return starts[which] + done, np.minimum(context, lengths[which] - done)


def best_fit(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """Return the row (N,) of every piece by best-fit decreasing.

    Pieces of one length and rows of one room are placed together, so the time grows with
    capacity ** 2 and the number of pieces, not with their product.
    """
    order = np.argsort(-lengths, kind="stable")
    todo = np.bincount(lengths, minlength=capacity + 1)
    rows = np.empty(len(lengths), dtype=np.int64)
    free: list[list[int]] = [[] for _ in range(capacity + 1)]  # rows by the room they have left
    placed = n_rows = 0
    for length in range(capacity, 0, -1):
        left = int(todo[length])
        for room in range(length, capacity + 1):
            if not left:
                break
            each = room // length  # of these pieces in one such row: after one it is the best fit
            wanted = -(-left // each)
            if room == capacity:
                free[room] = list(range(n_rows, n_rows + wanted))
                n_rows += wanted
            if not free[room]:
                continue
            taken, free[room] = free[room][:wanted], free[room][wanted:]
            n = min(left, each * len(taken))
            rows[order[placed : placed + n]] = np.repeat(taken, each)[:n]
            placed, left = placed + n, left - n
            last = n - each * (len(taken) - 1)  # pieces in the last of these rows
            free[room - each * length] += taken[:-1]
            free[room - last * length].append(taken[-1])
    return rows
