"""Counters and samples that stay small however long the stream is, and can be added together.

Each is made on one shard of a corpus and merged with those of the others, in the order of the
shards; so what they hold depends on the documents alone.
"""

import hashlib
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]


def draw(key: str, seed: int) -> int:
    """Return a number that orders keys at random, but always in the same way."""
    secret = seed.to_bytes(8, "big")
    digest = hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=8, key=secret).digest()
    return int.from_bytes(digest, "big")


@dataclass
class Sample:
    """The rows of the `size` smallest draws: a random sample of all that were offered."""

    size: int
    heap: list[tuple[int, int, Row]] = field(default_factory=list)  # largest draw first
    offered: int = 0

    def offer(self, number: int, row: Callable[[], Row]) -> None:
        """Take a row, made only if it is wanted, if its draw is small enough."""
        self.offered += 1
        if len(self.heap) < self.size:
            heapq.heappush(self.heap, (-number, -self.offered, row()))
        elif self.heap and -number > self.heap[0][0]:
            heapq.heapreplace(self.heap, (-number, -self.offered, row()))

    def merge(self, other: "Sample") -> None:
        """Take over another sample."""
        before = self.offered
        for number, _, row in sorted(other.heap, reverse=True):
            self.offer(-number, lambda row=row: row)  # type: ignore[misc]
        self.offered = before + other.offered

    @property
    def rows(self) -> list[Row]:
        """The rows, smallest draw first."""
        return [row for _, _, row in sorted(self.heap, reverse=True)]


@dataclass
class TopCounts:
    """Documents and bytes of each name, exact while there are at most `limit` names.

    Beyond that the rarest half is forgotten, and `error` says by how many documents any name may
    be counted too low: the sum of the largest counts forgotten each time.
    """

    limit: int
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    error: int = 0

    def add(self, name: str, documents: int, size: int) -> None:
        """Count documents of a name."""
        known = self.counts.get(name, (0, 0))
        self.counts[name] = known[0] + documents, known[1] + size
        if len(self.counts) > self.limit:
            self._forget()

    def _forget(self) -> None:
        """Keep the half of the names that have most documents."""
        ranked = self.top(len(self.counts))
        keep = max(self.limit // 2, 1)
        self.error += ranked[keep][1]
        self.counts = {name: (documents, size) for name, documents, size in ranked[:keep]}

    def merge(self, other: "TopCounts") -> None:
        """Take over another count."""
        self.error += other.error
        for name, (documents, size) in other.counts.items():
            self.add(name, documents, size)

    def top(self, n: int) -> list[tuple[str, int, int]]:
        """Return (name, documents, bytes) of the n names that have most documents."""
        best = heapq.nsmallest(n, self.counts.items(), key=lambda item: (-item[1][0], item[0]))
        return [(name, documents, size) for name, (documents, size) in best]
