"""Tables larger than memory: rows scattered over files that can each be sorted in memory."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np

BUCKET_BYTES = 2**24  # of one file, on average
MAX_BUCKETS = 512  # files open at once
CHUNK = 2**16  # rows of a table in memory at once


class Buckets:
    """Rows of one type in files by the size of a number below `limit`.

    Reading gives one file's rows after the other, so sorted files make a sorted whole. Write
    inside `with`, read after.
    """

    def __init__(self, directory: Path, dtype: Any, rows: int, limit: int) -> None:
        """Use a directory that this table has for itself; expect so many rows."""
        self.directory, self.dtype = directory, np.dtype(dtype)
        size = rows * self.dtype.itemsize
        self.count = min(MAX_BUCKETS, max(1, -(-size // BUCKET_BYTES)))
        self.width = -(-limit // self.count)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        self._files = [self._stack.enter_context(p.open("wb")) for p in self._paths()]
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _paths(self) -> list[Path]:
        return [self.directory / f"{number:03d}.bin" for number in range(self.count)]

    def add(self, rows: np.ndarray, number: np.ndarray) -> None:
        """Append rows, each to the file of its number."""
        self.scatter(rows, (number // np.uint64(self.width)).astype(np.int64))

    def scatter(self, rows: np.ndarray, bucket: np.ndarray) -> None:
        """Append rows, each to the file given for it."""
        order = np.argsort(bucket, kind="stable")
        ends = np.cumsum(np.bincount(bucket, minlength=self.count))
        for file, part in zip(self._files, np.split(rows[order], ends[:-1]), strict=True):
            file.write(part.tobytes())

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the rows of one file after the other, and remove what was read."""
        for path in self._paths():
            rows = np.fromfile(path, dtype=self.dtype)
            path.unlink()
            yield rows


def new_table(path: Path, dtype: Any, rows: int) -> np.memmap:
    """Make a table of zeros on disk, a row a document: mapped, so that the kernel may page it."""
    return np.memmap(path, dtype=dtype, mode="w+", shape=(max(rows, 1),))


def table(path: Path, dtype: Any) -> np.ndarray:
    """Open a table for reading."""
    if path.stat().st_size == 0:  # no file to map
        return np.empty(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r")


def chunks(rows: np.ndarray, size: int = CHUNK) -> Iterator[np.ndarray]:
    """Yield a mapped table in pieces that are in memory."""
    for start in range(0, len(rows), size):
        yield np.array(rows[start : start + size])


def array_chunks(path: Path, size: int = CHUNK) -> Iterator[np.ndarray]:
    """Yield an array file in pieces (what is read from a map would count as memory)."""
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    for start in range(0, len(mapped), size):
        offset = mapped.offset + start * mapped.itemsize
        yield np.fromfile(path, mapped.dtype, min(size, len(mapped) - start), offset=offset)
