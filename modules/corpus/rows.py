"""Write rows one at a time to a compressed file that is whole or absent."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import zstandard

from modules.files import atomic_write

ROW = orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE


class RowWriter:
    """Takes rows for one JSON lines file, zstd-compressed."""

    def __init__(self, stream: Any) -> None:
        """Write to an open binary stream."""
        self._stream = stream

    def write(self, row: dict[str, Any]) -> None:
        """Add one row, keys sorted so that equal rows are equal bytes."""
        self._stream.write(orjson.dumps(row, option=ROW))


@contextmanager
def row_writer(path: Path) -> Iterator[RowWriter]:
    """Open a .jsonl.zst file for rows; it appears under its name when the block ends well."""
    with atomic_write(path) as raw:
        stream = zstandard.ZstdCompressor(level=6).stream_writer(raw, closefd=False)
        yield RowWriter(stream)
        stream.close()


def remove_stale(out: Path) -> None:
    """Remove what a killed try of the same step has left half-written in its directory."""
    for path in list(out.glob("*.tmp")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
