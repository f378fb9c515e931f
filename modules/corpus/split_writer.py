"""One split of a tokens directory, written: ids into shards of equal size, spans of documents."""

import hashlib
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
    """Write the tokens of one split through into shards, and where each document lies.

    What is whole is recorded in the split's entry of the index: a shard when it is full, the last
    one and the file of spans when the block ends; an error leaves neither of these two.
    """

    def __init__(self, name: str, out: Path, entry: dict[str, Any], shard_tokens: int) -> None:
        """Go on behind the files that the entry has."""
        self.name, self.out, self.entry = name, out, entry
        self._shard_tokens = shard_tokens
        self._open = ExitStack()  # the shard that is being written
        self._shard: IO[bytes] | None = None
        self._digest, self._written = hashlib.sha256(), 0  # of that shard; tokens in it
        self._spans_open = ExitStack()
        self._spans: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._open.__exit__(kind, error, trace)
        elif self._written:
            self._end_shard()
        self._spans_open.__exit__(kind, error, trace)
        if kind is None and self._spans is not None:
            path = self._span_path()
            self.entry["spans"].append({"file": path.name, "sha256": sha256(path)})

    def add(
        self,
        ids: np.ndarray,
        names: list[str],
        sources: list[str],
        lengths: list[int],
        n_bytes: int,
    ) -> None:
        """Append documents: their ids one after the other, their names, sources and lengths."""
        assert sum(lengths) == len(ids), "lengths do not add up to the ids"
        if not names:
            return
        starts = accumulate(lengths, initial=self.entry["tokens"])
        rows = (
            orjson.dumps({"id": name, "length": length, "start": start, "source": source})
            for name, source, length, start in zip(
                names,
                sources,
                lengths,
                starts,
                strict=False,  # one start over
            )
        )
        self._span_file().write(b"\n".join([*rows, b""]))
        self.entry["tokens"] += len(ids)
        self.entry["documents"] += len(names)
        self.entry["bytes"] += n_bytes
        self._write(ids)

    def _write(self, ids: np.ndarray) -> None:
        """Write ids into the open shard and, where it is full, into the next ones."""
        start = 0
        while start < len(ids):
            if self._shard is None:
                self._shard = self._open.enter_context(atomic_write(self._shard_path()))
            piece = ids[start : start + self._shard_tokens - self._written]
            self._shard.write(piece.data)
            self._digest.update(piece.data)
            self._written += len(piece)
            start += len(piece)
            if self._written == self._shard_tokens:
                self._end_shard()

    def _end_shard(self) -> None:
        """Give the open shard its name and check that it reads as it was written."""
        self._open.close()
        path, digest = self._shard_path(), self._digest.hexdigest()
        if sha256(path) != digest:
            raise OSError(f"{path}: read back differently than written: check the disk")
        shard = {"file": path.name, "tokens": self._written, "sha256": digest}
        self.entry["shards"].append(shard)
        self._shard, self._digest, self._written = None, hashlib.sha256(), 0

    def _shard_path(self) -> Path:
        return self.out / f"{self.name}-{len(self.entry['shards']):05d}.bin"

    def _span_path(self) -> Path:
        return self.out / f"{self.name}-documents-{len(self.entry['spans']):05d}.jsonl.zst"

    def _span_file(self) -> IO[bytes]:
        """Return the file for spans, opened when there is a first one."""
        if self._spans is None:
            raw = self._spans_open.enter_context(atomic_write(self._span_path()))
            compressor = zstandard.ZstdCompressor(level=6).stream_writer(raw, closefd=False)
            self._spans = self._spans_open.enter_context(compressor)
        return self._spans
