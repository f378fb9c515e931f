"""Which spans are read in one row, and which rows in one pass.

The spans of a group (the candidates of one item) share the beginning that they have in common
where that saves work: it is read once and each span's rest is a branch of the row
(modules/model/branches.py). Rows of like width are read together. The plan depends on the spans
and the model's sizes only, so a run that goes on after a kill makes the same passes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from modules.evaluation.spans import Span
from modules.model.base import Decoder, compute_dtype
from modules.model.branches import PADDING, STEM, Branches

T = TypeVar("T")


@dataclass(frozen=True)
class Reading:
    """One row: spans (by their numbers in the whole list) whose first `shared` tokens agree."""

    numbers: tuple[int, ...]
    spans: tuple[Span, ...]
    shared: int  # 0: one span alone

    @property
    def width(self) -> int:
        """Positions of the row."""
        return self.shared + sum(span.read - self.shared for span in self.spans)

    def columns(self, which: int) -> list[int]:
        """Return where in the row the scored positions of one of its spans are."""
        span, before = self.spans[which], self.spans[:which]
        shift = sum(earlier.read - self.shared for earlier in before)
        places = range(span.start, span.read)
        return [place if place < self.shared else place + shift for place in places]


def plan(
    groups: Sequence[Sequence[Span]], model: Decoder, batch_tokens: int
) -> Iterator[list[Reading]]:
    """Yield the rows of each pass, the widest first, at most batch_tokens with padding."""
    rows: list[Reading] = []
    start = 0
    for group in groups:
        rows += readings(start, tuple(group), model)
        start += len(group)
    for branching in (False, True):
        mine = [row for row in rows if (row.shared > 0) == branching]
        yield from batches(mine, [row.width for row in mine], batch_tokens)


def readings(start: int, group: tuple[Span, ...], model: Decoder) -> list[Reading]:
    """Return the rows of a group whose spans have the numbers from `start`."""
    numbers = tuple(range(start, start + len(group)))
    together = Reading(numbers, group, common(group) if model.branching else 0)
    if together.shared and cheaper(together, model.width):
        return [together]
    return [Reading((number,), (span,), 0) for number, span in zip(numbers, group, strict=True)]


def common(group: Sequence[Span]) -> int:
    """Return how many first tokens a group of two or more can share: all that no scoring parts."""
    if len(group) < 2:
        return 0
    limit = min(span.start for span in group) + 1  # the last one predicts the first scored token
    first = group[0].tokens[:limit]
    for span in group[1:]:
        while span.tokens[: len(first)] != first:
            first = first[: _agree(first, span.tokens)]
    return len(first)


def _agree(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))


def cheaper(row: Reading, features: int) -> bool:
    """Compare the operations (over 4 C a layer) of one branching row with its spans read alone.

    A token costs 6 C; attention a product with every column of the row, alone with half of them.
    """
    alone = sum(span.read * (6 * features + span.read / 2) for span in row.spans)
    return row.width * (6 * features + row.width) < alone


def batches(items: Sequence[T], lengths: Sequence[int], batch_tokens: int) -> Iterator[list[T]]:
    """Yield items of like length together, longest first, at most batch_tokens with padding."""
    batch: list[T] = []
    longest = 0
    for i in sorted(range(len(items)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * longest > batch_tokens:
            yield batch
            batch = []
        longest = longest if batch else lengths[i]
        batch.append(items[i])
    if batch:
        yield batch


def read(model: Decoder, rows: Sequence[Reading]) -> Tensor:
    """Return the features (B, T, C) of a pass."""
    if not rows[0].shared:
        return model(pad([row.spans[0].tokens[:-1] for row in rows], model.device))
    laid = [lay(row) for row in rows]
    tokens, positions = (pad([row[i] for row in laid], model.device) for i in (0, 1))  # (B, T)
    branch = pad([row[2] for row in laid], model.device, PADDING)
    branches = Branches(positions, branch, compute_dtype(model.output_matrix))
    return model(tokens, branches)


def lay(row: Reading) -> tuple[list[int], list[int], list[int]]:
    """Return the tokens of a branching row, their positions and their branches."""
    n = row.shared
    tokens, positions = row.spans[0].tokens[:n], list(range(n))
    branch = [STEM] * n
    for number, span in enumerate(row.spans, 1):
        tokens = tokens + span.tokens[n:-1]
        positions += range(n, span.read)
        branch += [number] * (span.read - n)
    return tokens, positions, branch


def pad(rows: Sequence[list[int]], device: torch.device, filling: int = 0) -> Tensor:
    """Stack rows, padded on the right (causal attention never looks there)."""
    longest = max(map(len, rows))
    return torch.tensor([row + [filling] * (longest - len(row)) for row in rows], device=device)
