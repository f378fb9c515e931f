"""Sort more documents than fit in memory: work files by the first digits of the ids."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Self

import zstandard

from modules.corpus.document import Document
from modules.files import read_jsonl

PREFIX = 2  # hex digits: 256 files, each small enough to be sorted in memory


class Partition:
    """Rows of several kinds, written in any order and read back in the order of their ids.

    The files are for this run only: no fsync, fast compression. Write inside `with`, read after.
    """

    def __init__(self, directory: Path) -> None:
        """Use a directory that does not exist yet."""
        self.directory, self._stack = directory, ExitStack()
        self._files: dict[tuple[str, str], IO[bytes]] = {}

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def write(self, kind: str, row: dict[str, Any]) -> None:
        """Append a row to the work file of its kind and id.

        Raises:
            ValueError: the id is not one that document_id makes.
        """
        if not re.fullmatch("[0-9a-f]{16}", row["id"]):
            raise ValueError(f"document id {row['id']!r}: expected 16 hex digits (document_id)")
        name = kind, row["id"][:PREFIX]
        if name not in self._files:
            self._files[name] = self._open(*name)
        self._files[name].write(json.dumps(row, sort_keys=True).encode() + b"\n")

    def _open(self, kind: str, prefix: str) -> IO[bytes]:
        path = self.directory / f"{kind}-{prefix}.jsonl.zst"
        raw = self._stack.enter_context(path.open("wb"))
        compressor = zstandard.ZstdCompressor(level=1)
        return self._stack.enter_context(compressor.stream_writer(raw, closefd=False))

    def rows(self, kind: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of a kind in the order of their ids, equal ids by their content."""
        for path in sorted(self.directory.glob(f"{kind}-*.jsonl.zst")):
            rows = list(read_jsonl(path))
            yield from sorted(rows, key=lambda row: (row["id"], json.dumps(row, sort_keys=True)))

    def documents(self, kind: str) -> Iterator[Document]:
        """Yield the rows of a kind as documents.

        Raises:
            ValueError: two of them have the same id.
        """
        last = None
        for row in self.rows(kind):
            document = Document(**row)
            if last is not None and last.id == document.id:
                names = [d.url or f"{d.source} {d.meta.get('source_id')}" for d in (last, document)]
                raise ValueError(f"{names[0]} and {names[1]} have the same id {last.id}: keep one")
            yield document
            last = document
