"""A Bloom filter over 64-bit hashes, in parts, so that building it needs the memory of one part.

A hash belongs to the part its top bits name, so parts are filled apart, on as many processes or
machines as there are, and laid one behind the other in one file; which one is filled first, and
from how many files, changes nothing. Each part is sized for the hashes that it really holds.
"""

import json
from collections.abc import Iterable
from math import ceil, log, log2
from pathlib import Path
from typing import Any, Self

import numpy as np

from modules.corpus.ngrams import BASE, mix
from modules.files import atomic_write, write_json

PART = 2**20  # hashes that a part aims at: filling it takes about 60 MB


def hash_functions(false_positives: float) -> int:
    """Return how many hash functions this rate wants: 27 for the 1e-8 of GPT-2's paper."""
    return max(ceil(-log2(false_positives)), 1)


def bits_for(distinct: int, false_positives: float) -> int:
    """Return the bits that keep the rate for so many hashes: 38.34 for each at 1e-8."""
    k = hash_functions(false_positives)
    bits = ceil(distinct * -k / log(1 - false_positives ** (1 / k)))
    assert bits < 2**32, "positions are made of 32-bit numbers: use more parts"
    return max(-(-bits // 8) * 8, 8)


def part_bounds(parts: int) -> np.ndarray:
    """Return the smallest hash of each part."""
    return np.array([part * 2**64 // parts for part in range(parts)], dtype=np.uint64)


def fill(hashes: np.ndarray, false_positives: float) -> np.ndarray:
    """Return the bits of a part that holds distinct hashes, packed in bytes."""
    flags = np.zeros(bits_for(len(hashes), false_positives), dtype=bool)
    for number in range(hash_functions(false_positives)):
        flags[_position(hashes, number, len(flags))] = True
    return np.packbits(flags, bitorder="little")


def _position(hashes: np.ndarray, number: int, bits: int) -> np.ndarray:
    """Return a position of each hash; positions of other numbers do not depend on it.

    (Multiples of one step, the usual short cut, would miss the bound in small parts.)
    """
    mixed = mix(hashes + np.uint64((number + 1) * BASE % 2**64))
    return ((mixed >> np.uint64(32)) * np.uint64(bits)) >> np.uint64(32)


def write_filter(
    directory: Path, parts: Iterable[tuple[int, np.ndarray]], facts: dict[str, Any]
) -> None:
    """Write the parts in order, each (distinct hashes, bytes), and what is known of them."""
    distinct, sizes = [], []
    with atomic_write(directory / "filter.bin") as file:
        for count, packed in parts:
            distinct.append(count)
            sizes.append(len(packed))
            file.write(packed.tobytes())
    write_json(directory / "filter.json", facts | {"distinct": distinct, "bytes": sizes})


class Filter:
    """A filter on disk, mapped into memory.

    Attributes:
        facts: what filter.json says: false_positives, distinct and bytes of each part, ...
    """

    def __init__(self, facts: dict[str, Any], packed: np.ndarray) -> None:
        self.facts, self._packed = facts, packed
        self._bounds = part_bounds(len(facts["bytes"]))
        self._ends = np.cumsum(facts["bytes"])

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Open what write_filter wrote.

        Raises:
            FileNotFoundError: there is none.
            ValueError: its two files do not belong together.
        """
        path = directory / "filter.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing, so this is no finished filter")
        facts = json.loads(path.read_text())
        packed = np.memmap(directory / "filter.bin", dtype=np.uint8, mode="r")
        if len(packed) != sum(facts["bytes"]):
            raise ValueError(f"{directory / 'filter.bin'}: {len(packed)} bytes; build it again")
        return cls(facts, packed)

    def contains(self, hashes: np.ndarray) -> np.ndarray:
        """Return whether each hash is in the filter (bool, in their order)."""
        wanted, back = np.unique(hashes, return_inverse=True)
        starts = np.append(np.searchsorted(wanted, self._bounds), len(wanted))
        found = np.zeros(len(wanted), dtype=bool)
        for part in np.flatnonzero(np.diff(starts)).tolist():
            mine = slice(int(starts[part]), int(starts[part + 1]))
            found[mine] = self._contains(part, wanted[mine])
        return found[back]

    def _contains(self, part: int, hashes: np.ndarray) -> np.ndarray:
        """Look up the hashes of one part; most absent ones are gone after two positions."""
        size = int(self.facts["bytes"][part])
        packed = self._packed[int(self._ends[part]) - size : int(self._ends[part])]
        k = hash_functions(self.facts["false_positives"])
        left = np.arange(len(hashes))
        for number in range(k):
            position = _position(hashes[left], number, 8 * size)
            bit = packed[position >> np.uint64(3)] >> (position & np.uint64(7)).astype(np.uint8)
            left = left[(bit & 1).astype(bool)]
        found = np.zeros(len(hashes), dtype=bool)
        found[left] = True
        return found
