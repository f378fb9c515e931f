"""Which spans are read in one row, and which rows in one pass.

The spans of a group (the candidates of one item) share the beginning that they have in common
where that saves work: it is read once and each span's rest is a branch of the row
(modules/model/packed.py). Rows of like width are read together. The plan depends on the spans
and the model's sizes only, so a run that goes on after a kill makes the same passes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import TypeVar

import torch
from torch import Tensor

from modules.evaluation.spans import Span
from modules.model.base import Decoder
from modules.model.packed import Packed

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


def begins(model: Decoder, rows: Sequence[Reading]) -> list[int]:
    """Return where among the places of a pass each row begins."""
    if model.branching:
        return list(accumulate((row.width for row in rows[:-1]), initial=0))
    longest = max(row.width for row in rows)
    return [b * longest for b in range(len(rows))]


def read(model: Decoder, rows: Sequence[Reading], kept: Tensor) -> Tensor:
    """Return the features (N, C) of the places `kept` (N,) of a pass."""
    kept = kept.to(model.device)
    if not model.branching:
        hidden = model(pad([row.spans[0].tokens[:-1] for row in rows], model.device))  # (B, T, C)
        return hidden.flatten(0, 1)[kept]
    packed = lay(rows, model.device)
    features: Tensor = model(packed.tokens[None], packed=packed, at=kept)[0]
    return features


def lay(rows: Sequence[Reading], device: torch.device) -> Packed:
    """Lay rows one after another; a row holds its shared beginning, then each span's rest."""
    tokens: list[int] = []
    positions: list[int] = []
    branch: list[int] = []
    starts = [0]
    for row in rows:
        tokens += row.spans[0].tokens[: row.shared]
        positions += range(row.shared)
        branch += [0] * row.shared
        for span in row.spans:
            own = span.tokens[row.shared : -1]
            branch += [len(tokens) - starts[-1] if row.shared else 0] * len(own)
            positions += range(row.shared, span.read)
            tokens += own
        starts.append(len(tokens))
    as_tensor = partial(torch.tensor, dtype=torch.int64, device=device)
    return Packed.of_rows(
        as_tensor(tokens),
        as_tensor(positions),
        starts=as_tensor(starts),
        prefix=as_tensor([row.shared for row in rows]),
        branch=as_tensor(branch),
    )


def pad(rows: Sequence[list[int]], device: torch.device) -> Tensor:
    """Stack rows, padded on the right (causal attention never looks there)."""
    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
