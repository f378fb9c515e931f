"""Token directories, read: each split is one stream of ids, mapped from its shards.

shards.py says what lies in such a directory and writes it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modules.files import read_jsonl, sha256


class TokenFile:
    """The tokens of one split, mapped from all its shards.

    Attributes:
        vocab_size: number of ids, end-of-text included.
        eot: id of end-of-text.
    """

    def __init__(self, directory: Path, split: str, *, verify: bool = False) -> None:
        """Map the shards; sizes are always checked, hashes with verify=True.

        Raises:
            FileNotFoundError: the index or a shard is missing.
            ValueError: the split is unknown or a shard is damaged.
        """
        index = read_index(directory)
        if split not in index["splits"]:
            raise ValueError(f"{directory}: no split {split!r}, it has {sorted(index['splits'])}")
        self.directory, self.split = directory, split
        self.vocab_size, self.eot = int(index["vocab_size"]), int(index["eot"])
        dtype = np.dtype(index["dtype"]).newbyteorder("<")
        shards = index["splits"][split]["shards"]
        self._shards = [_map_shard(directory, shard, dtype, verify) for shard in shards]
        self._ends = np.cumsum([len(shard) for shard in self._shards], dtype=np.int64)  # (shards,)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __reduce__(self) -> tuple[Any, ...]:
        """Map again in a worker process instead of sending the tokens there."""
        return TokenFile, (self.directory, self.split)

    def read(self, start: int, length: int) -> np.ndarray:
        """Return `length` ids from `start` on as int64 (length,).

        Raises:
            IndexError: the range is not inside the split.
        """
        if start < 0 or length < 0 or start + length > len(self):
            raise IndexError(f"tokens {start}..{start + length} of {len(self)} in {self.split}")
        out = np.empty(length, dtype=np.int64)
        shard = int(np.searchsorted(self._ends, start, side="right"))
        filled = 0
        while filled < length:
            tokens = self._shards[shard]
            begin = start + filled - (int(self._ends[shard]) - len(tokens))
            piece = tokens[begin : begin + length - filled]
            out[filled : filled + len(piece)] = piece
            filled, shard = filled + len(piece), shard + 1
        return out

    def rows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Return the `length` ids from each of `starts` on as int64 (N, length).

        Rows inside one shard are copied as blocks by one call of numpy: reading them one by one
        costs ten times as much.

        Raises:
            IndexError: a row is not inside the split.
        """
        out = np.empty((len(starts), length), dtype=np.int64)
        shards = np.searchsorted(self._ends, starts, side="right")
        for number in set(shards.tolist()):
            if number == len(self._shards):
                raise IndexError(f"token {starts.max()} of {len(self)} in {self.split}")
            shard, here = self._shards[number], np.flatnonzero(shards == number)
            local = starts[here] - (self._ends[number] - len(shard))
            whole = (local >= 0) & (local + length <= len(shard))
            if whole.any():
                out[here[whole]] = _windows_of(shard, length)[local[whole]]
            for row in here[~whole]:  # runs on in the next shard
                out[row] = self.read(int(starts[row]), length)
        return out

    def positions_of(self, token: int) -> np.ndarray:
        """Return where an id stands in the split, in order, int64 (N,)."""
        begins = self._ends - [len(shard) for shard in self._shards]
        found = [
            np.flatnonzero(shard == token) + begin
            for shard, begin in zip(self._shards, begins, strict=True)
        ]
        return np.concatenate([np.empty(0, dtype=np.int64), *found])


def _windows_of(shard: np.ndarray, length: int) -> np.ndarray:
    """Return all runs of `length` ids of a shard without copying (N, length).

    What numpy's sliding_window_view gives, for a tenth of its overhead.
    """
    shape, step = (len(shard) - length + 1, length), shard.itemsize
    return np.ndarray(shape, shard.dtype, buffer=shard, strides=(step, step))


def read_split(directory: Path, split: str, *, verify: bool = False) -> TokenFile:
    """Open one split of a tokens directory."""
    return TokenFile(directory, split, verify=verify)


def read_held_out(directory: Path) -> TokenFile:
    """Open the split that judges a finished model: test, or val where test has no window of two.

    Settings are chosen on val, so that test stays fresh.
    """
    test = read_split(directory, "test")
    return test if len(test) >= 2 else read_split(directory, "val")


def read_index(directory: Path) -> dict[str, Any]:
    """Return index.json of a tokens directory.

    Raises:
        FileNotFoundError: there is none: the directory is unfinished or of another kind.
    """
    path = directory / "index.json"
    if not path.exists():
        raise FileNotFoundError(f"{path}: missing, so this is no finished directory of tokens")
    return json.loads(path.read_text())


class Span(NamedTuple):
    """Where a document lies in its split, in tokens, end-of-text included."""

    id: str
    start: int
    length: int
    source: str  # host of a page, name of a text set; empty in files written before it was kept


def read_spans(directory: Path, split: str) -> Iterator[Span]:
    """Yield the documents of a split in the order of its tokens."""
    for span_file in read_index(directory)["splits"][split]["spans"]:
        for row in read_jsonl(directory / span_file["file"]):
            yield Span(row["id"], row["start"], row["length"], row.get("source", ""))


def _map_shard(
    directory: Path, shard: dict[str, Any], dtype: np.dtype[Any], verify: bool
) -> np.ndarray:
    """Map one shard after checking its size and, if asked, its hash."""
    path = directory / shard["file"]
    mend = "restore it (textmill checkout) or prepare the corpus again"
    if not path.exists():
        raise FileNotFoundError(f"{path}: shard missing: {mend}")
    size, expected = path.stat().st_size, shard["tokens"] * dtype.itemsize
    if size != expected:
        raise ValueError(f"{path}: {size} bytes, index.json says {expected}: {mend}")
    if verify and (digest := sha256(path)) != shard["sha256"]:
        want = shard["sha256"]
        raise ValueError(f"{path}: sha256 {digest[:12]}, index.json says {want[:12]}: {mend}")
    return np.asarray(
        np.memmap(path, dtype=dtype, mode="r")
    )  # its slices cost less than a memmap's
