"""Where the boxes of a graph go: columns by distance, few crossings, no box over another or a line.

A line that passes a column gets a place of its own there, so it goes between the boxes.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

SWEEPS = 8  # passes that sort each column by its neighbours' places
Edge = tuple[Hashable, Hashable]


@dataclass(frozen=True)
class Bend:
    """The place of a line in a column that it passes."""

    edge: Edge
    column: int


@dataclass(frozen=True)
class Layout:
    """Places: every box's column and middle, and the points through which every line goes."""

    column: dict[Hashable, int]
    middle: dict[Hashable, float]
    path: dict[Edge, list[Hashable]]  # its ends, with bends between them


def lay_out(
    heights: Mapping[Hashable, float], edges: Sequence[Edge], *, gap: float, bend: float
) -> Layout:
    """Place boxes of some heights, so that every edge goes from left to right.

    Args:
        heights: box -> its height.
        edges: (left, right); no circle.
        gap: between two boxes of a column.
        bend: the height that a passing line takes.
    """
    column = columns_of(list(heights), edges)
    path, sizes = {}, dict(heights)
    for edge in dict.fromkeys(edges):
        between = [Bend(edge, c) for c in range(column[edge[0]] + 1, column[edge[1]])]
        column |= {place: place.column for place in between}
        sizes |= dict.fromkeys(between, bend)
        path[edge] = [edge[0], *between, edge[1]]
    beside: dict[Hashable, list[Hashable]] = defaultdict(list)
    for places in path.values():
        for left, right in pairwise(places):
            beside[left].append(right)
            beside[right].append(left)
    layers: dict[int, list[Hashable]] = defaultdict(list)
    for place, number in column.items():
        layers[number].append(place)
    middle = _stack(layers, sizes, gap)
    for _ in range(SWEEPS):
        for layer in layers.values():
            layer.sort(key=lambda place: _mean(middle, place, beside))
        middle = _stack(layers, sizes, gap)
    return Layout(column, middle, path)


def columns_of(boxes: Sequence[Hashable], edges: Sequence[Edge]) -> dict[Hashable, int]:
    """Return each box's column: left of everything that it leads to, as far right as it can be."""
    after: dict[Hashable, list[Hashable]] = defaultdict(list)
    for left, right in edges:
        after[left].append(right)
    depth: dict[Hashable, int] = {}

    def deep(box: Hashable) -> int:
        if box not in depth:
            depth[box] = max((deep(right) + 1 for right in after[box]), default=0)
        return depth[box]

    most = max(map(deep, boxes))
    return {box: most - depth[box] for box in boxes}


def _mean(
    middle: Mapping[Hashable, float],
    place: Hashable,
    beside: Mapping[Hashable, Sequence[Hashable]],
) -> float:
    """Return the mean place of what a place is joined to."""
    found = [middle[other] for other in beside[place]]
    return sum(found) / len(found) if found else middle[place]


def _stack(
    layers: Mapping[int, Sequence[Hashable]], sizes: Mapping[Hashable, float], gap: float
) -> dict[Hashable, float]:
    """Put each column's places one below the other, around a common middle line."""
    middle: dict[Hashable, float] = {}
    for layer in layers.values():
        at = -(sum(sizes[place] for place in layer) + gap * (len(layer) - 1)) / 2
        for place in layer:
            middle[place] = at + sizes[place] / 2
            at += sizes[place] + gap
    return middle
