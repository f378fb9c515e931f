"""One split of a tokens directory, written: ids into shards of equal size, spans of documents."""

import hashlib
import os
import shutil
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import orjson
import zstandard

from modules.files import atomic_write, sha256


class SplitWriter:
    """Collect the tokens of one split and write a shard whenever one is full.

    What is written is recorded in the split's entry of the index; the last shard and the span file
    when the block ends, so that an error leaves neither.
    """

    def __init__(
        self, name: str, out: Path, entry: dict[str, Any], dtype: np.dtype[Any], shard_tokens: int
    ) -> None:
        """Go on behind the files that the entry has."""
        self.name, self.out, self.entry = name, out, entry
        self._dtype, self._shard_tokens = dtype, shard_tokens
        self._pending: list[np.ndarray] = []
        self._waiting = 0  # tokens in pending
        self._stack = ExitStack()
        self._spans: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and self._waiting:
            self._write_shard(np.concatenate(self._pending))
        self._stack.__exit__(kind, error, trace)
        if kind is None and self._spans is not None:
            path = self._span_path()
            self.entry["spans"].append({"file": path.name, "sha256": sha256(path)})

    def add(self, ids: np.ndarray, names: list[str], lengths: list[int], n_bytes: int) -> None:
        """Append documents: their ids one after the other, and their names and lengths."""
        assert sum(lengths) == len(ids), "lengths do not add up to the ids"
        if not names:
            return
        starts = accumulate(lengths, initial=self.entry["tokens"])
        rows = (
            orjson.dumps({"id": name, "length": length, "start": start})
            for name, length, start in zip(names, lengths, starts, strict=False)  # one start over
        )
        self._span_file().write(b"\n".join([*rows, b""]))
        self.entry["tokens"] += len(ids)
        self.entry["documents"] += len(names)
        self.entry["bytes"] += n_bytes
        self._pending.append(ids)
        self._waiting += len(ids)
        if self._waiting >= self._shard_tokens:
            self._write_full_shards()

    def _write_full_shards(self) -> None:
        stream, size = np.concatenate(self._pending), self._shard_tokens
        whole = len(stream) // size * size
        for start in range(0, whole, size):
            self._write_shard(stream[start : start + size])
        self._pending, self._waiting = [stream[whole:]], len(stream) - whole

    def _write_shard(self, ids: np.ndarray) -> None:
        path = self.out / f"{self.name}-{len(self.entry['shards']):05d}.bin"
        data = ids.astype(self._dtype, copy=False).data
        with atomic_write(path) as file:
            file.write(data)
        digest = hashlib.sha256(data).hexdigest()
        if sha256(path) != digest:
            raise OSError(f"{path}: read back differently than written: check the disk")
        self.entry["shards"].append({"file": path.name, "tokens": len(ids), "sha256": digest})

    def _span_path(self) -> Path:
        return self.out / f"{self.name}-documents-{len(self.entry['spans']):05d}.jsonl.zst"

    def _span_file(self) -> IO[bytes]:
        """Return the file for spans, opened when there is a first one."""
        if self._spans is None:
            raw = self._stack.enter_context(atomic_write(self._span_path()))
            compressor = zstandard.ZstdCompressor(level=6).stream_writer(raw, closefd=False)
            self._spans = self._stack.enter_context(compressor)
        return self._spans


def carry_over(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system cannot."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        os.link(source, temporary)
    except OSError:  # another file system, or one without links
        with atomic_write(target) as file, source.open("rb") as old:
            shutil.copyfileobj(old, file, 2**20)
        return
    temporary.replace(target)
    temporary.unlink(missing_ok=True)  # rename does nothing between two names of one file
