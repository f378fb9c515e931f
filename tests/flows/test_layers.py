"""Places of a graph's boxes: nothing over anything, lines only from left to right."""

import random
from itertools import combinations, pairwise

import pytest

from flows.lineage_picture import Box, Plan

AIR = 1e-6  # sums of lengths are rounded


def graph(seed: int) -> tuple[dict[str, Box], list[tuple[str, str]]]:
    """Return a random graph without circles."""
    chance = random.Random(seed)
    n = chance.randint(1, 25)
    boxes = {
        f"b{i}": Box(["x" * chance.randint(1, 34)] * chance.randint(1, 8), "white")
        for i in range(n)
    }
    pairs = list(combinations(boxes, 2))
    return boxes, chance.sample(pairs, min(len(pairs), chance.randint(0, 2 * n)))


def inside(point, corner, box) -> bool:
    (x, y), (left, top) = point, corner
    across = left + AIR < x < left + box.width - AIR
    return across and top + AIR < y < top + box.height - AIR


@pytest.mark.parametrize("seed", range(60))
def test_no_box_lies_over_another_or_over_a_line(seed):
    boxes, edges = graph(seed)
    plan = Plan.of(boxes, edges)
    width, height = plan.size
    for one, other in combinations(boxes, 2):
        (x, y), (u, v) = plan.corner(one), plan.corner(other)
        a, b = boxes[one], boxes[other]
        beside = x + a.width <= u + AIR or u + b.width <= x + AIR
        assert beside or y + a.height <= v + AIR or v + b.height <= y + AIR, (one, other)
    for name, box in boxes.items():
        x, y = plan.corner(name)
        assert min(x, y) >= 0 and x + box.width <= width and y + box.height <= height
    for edge in edges:
        points = plan.points(edge)
        assert all(a[plan.upright] <= b[plan.upright] + AIR for a, b in pairwise(points))
        for (x, y), (u, v) in pairwise(points):
            between = [(x + t * (u - x) / 9, y + t * (v - y) / 9) for t in range(10)]
            assert not any(
                inside(point, plan.corner(name), box)
                for point in between
                for name, box in boxes.items()
            ), edge
