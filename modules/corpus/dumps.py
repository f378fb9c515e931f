"""Read link dumps of strangers record by record, in bounded memory, whatever they hold.

JSON lines and CSV, plain or packed (.zst with a window up to 2^31 as Pushshift's, .xz, .bz2,
.gz), and Parquet. The container is told by its first bytes, not by its name.
"""

import bz2
import csv
import gzip
import io
import json
import logging
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson
import zstandard

from modules.corpus.parquet import check_columns, read_parquet
from modules.corpus.submissions import Rejection, Submission, submission

log = logging.getLogger(__name__)

DAMAGE = (OSError, EOFError, lzma.LZMAError, zlib.error, zstandard.ZstdError)
PACKED = (".zst", ".xz", ".gz", ".bz2")


class ZstdSource(io.RawIOBase):
    """Frames of zstd as one stream that, unlike the library's reader, reports a cut-off frame."""

    CHUNK = 2048  # bytes of input at a time: at most 64 MiB of output from the worst bomb

    def __init__(self, file: IO[bytes]) -> None:
        """Read from an open file, which stays the caller's."""
        self._file = file
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)  # as Pushshift's
        self._frame: Any = None
        self._ready = memoryview(b"")
        self._input = b""

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the decoded stream; raise EOFError where the file ends too early."""
        while not self._ready:
            self._input = self._input or self._file.read(self.CHUNK)
            if not self._input:
                if self._frame is not None:
                    raise EOFError("the zstd frame is cut off")
                return 0
            self._frame = self._frame or self._decompressor.decompressobj()
            self._ready = memoryview(self._frame.decompress(self._input))
            self._input = b""
            if self._frame.eof:
                self._input, self._frame = self._frame.unused_data, None
        n = min(len(buffer), len(self._ready))
        buffer[:n] = self._ready[:n]
        self._ready = self._ready[n:]
        return n


def open_dump(file: IO[bytes]) -> IO[bytes]:
    """Return the decoded bytes of an open dump; its first bytes tell the container."""
    head = file.read(6)
    file.seek(0)
    if head[:4] == b"\x28\xb5\x2f\xfd" or head[1:4] == b"\x2a\x4d\x18":
        return io.BufferedReader(ZstdSource(file), 2**18)
    if head == b"\xfd7zXZ\x00":
        return lzma.open(file)
    if head[:2] == b"\x1f\x8b":
        return io.BufferedReader(gzip.open(file), 2**18)
    if head[:3] == b"BZh":
        return bz2.open(file)
    return file


@dataclass(frozen=True)
class Line:
    """One line of a dump; `data` is None if it is too long."""

    number: int  # from 1
    offset: int  # of its first byte in the decoded stream
    data: bytes | None


def read_lines(stream: IO[bytes], limit: int) -> Iterator[Line]:
    r"""Yield lines ending in \n, blank ones left out, never holding more than `limit` bytes."""
    number = offset = 0
    while part := stream.readline(limit + 1):
        number, length = number + 1, len(part)
        data: bytes | None = part
        while len(part) > limit and not part.endswith(b"\n"):
            data, part = None, stream.readline(limit + 1)
            length += len(part)
        if data is not None and len(data.rstrip(b"\r\n")) > limit:
            data = None
        if data is None or data.strip():
            yield Line(number, offset, data)
        offset += length


Parser = Callable[[bytes], Submission]


def parse_json(line: bytes) -> Submission:
    """Return the submission on a line of JSON.

    Raises:
        ValueError: there is none; the message is the reason.
    """
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        row = _lenient_json(line)
    if not isinstance(row, dict):
        raise ValueError("not-an-object")
    return submission(row)


def _lenient_json(line: bytes) -> Any:
    """Parse what orjson refuses and dumps hold: a byte order mark, NaN, half of a surrogate."""
    try:
        return json.loads(line.decode("utf-8").removeprefix("\ufeff"))
    except UnicodeDecodeError:
        raise ValueError("not-utf8") from None
    except (ValueError, RecursionError):  # a bomb of brackets
        raise ValueError("not-json") from None


def csv_parser(path: Path, header: bytes) -> Parser:
    """Return the parser of a CSV file with this first line; a record is one line.

    Raises:
        ValueError: a needed column is missing.
    """
    names = [name.strip().lower() for name in _cells(header.removeprefix(b"\xef\xbb\xbf"))]
    check_columns(path, "CSV", names)

    def parse(line: bytes) -> Submission:
        cells = _cells(line)
        if len(cells) != len(names):
            raise ValueError("wrong-number-of-columns")
        return submission(dict(zip(names, cells, strict=True)))

    return parse


def _cells(line: bytes) -> list[str]:
    """Return the cells of one CSV line."""
    try:
        rows = list(csv.reader([line.decode("utf-8").strip("\r\n")], strict=True))
    except UnicodeDecodeError:
        raise ValueError("not-utf8") from None
    except csv.Error:
        raise ValueError("not-csv") from None
    return rows[0] if rows else []


def is_csv(path: Path, first: bytes) -> bool:
    """Tell whether a dump is CSV, by its name or by a header with a url column."""
    if ".csv" in [suffix.lower() for suffix in path.suffixes]:
        return True
    return bool(re.match(rb'(\xef\xbb\xbf)?[\w" ]+(,[\w" ]+)+\r?\n?$', first)) and b"url" in first


def read_dump(path: Path, max_line_bytes: int) -> Iterator[Submission | Rejection]:
    """Yield what a dump holds; damage costs the record, or the rest of a broken file.

    Raises:
        ValueError: a table lacks a column.
    """
    with path.open("rb") as file:
        if file.read(4) == b"PAR1":
            yield from read_parquet(path, file)
            return
        file.seek(0)
        stream = open_dump(file)
        if stream is file and path.suffix in PACKED and path.stat().st_size:
            yield Rejection(0, 0, f"container: not a {path.suffix} file")
            return
        yield from _read_stream(path, stream, max_line_bytes)


def _read_stream(path: Path, stream: IO[bytes], limit: int) -> Iterator[Submission | Rejection]:
    """Yield the lines of a decoded dump; the last word is the damage that ends it."""
    number = offset = 0
    parse: Parser = parse_json
    try:
        for line in read_lines(stream, limit):
            if number == 0 and is_csv(path, line.data or b""):
                parse = csv_parser(path, line.data or b"")
            else:
                yield _read_line(line, parse)
            number, offset = line.number, line.offset + len(line.data or b"")
    except DAMAGE as error:
        reason = f"container: {error or type(error).__name__}"
        log.warning("%s: %s after line %d; the rest of it is lost", path, reason, number)
        yield Rejection(number + 1, offset, reason)
        return
    if number == 0:
        yield Rejection(0, 0, "container: empty")


def _read_line(line: Line, parse: Parser) -> Submission | Rejection:
    """Return the submission on a line, or why there is none."""
    try:
        if line.data is None:
            raise ValueError("line-too-long")
        return parse(line.data)
    except ValueError as error:
        return Rejection(line.number, line.offset, str(error))
