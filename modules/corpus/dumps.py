"""Read link dumps of strangers line by line, in bounded memory, whatever they hold.

Pushshift submissions (.zst with a window up to 2^31, .xz, .bz2, .gz), plain JSON lines and CSV
with the columns url, score, date. The container is told by its first bytes, not by its name.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import math
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import zstandard

MAX_INTEGER = 2**53  # larger numbers are damage, and not every JSON reader keeps them
DAMAGE = (OSError, EOFError, lzma.LZMAError, zlib.error, zstandard.ZstdError)
CSV_COLUMNS = ("url", "score", "date")


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


@dataclass(frozen=True)
class Submission:
    """One post of a link, as far as we need it."""

    url: str  # as the dump spells it, HTML entities and all
    score: int
    id: str = ""
    created: int | None = None  # seconds since 1970, UTC
    subreddit: str = ""
    is_self: bool = False
    over_18: bool = False


Parser = Callable[[bytes], Submission]


def clean_string(value: Any) -> str:
    """Return a string that UTF-8 can hold, or an empty one for anything else."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def to_integer(value: Any) -> int:
    """Return a whole number from a number or its spelling, rounded down.

    Raises:
        ValueError: it is none, or out of all proportion.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"not a number: {str(value)[:40]!r}")
    number = float(value)
    if not math.isfinite(number) or abs(number) > MAX_INTEGER:
        raise ValueError(f"out of range: {str(value)[:40]!r}")
    return math.floor(number)


def to_time(value: Any) -> int | None:
    """Return seconds since 1970 from a number, its spelling or an ISO date; None if unknown."""
    try:
        return to_integer(value)
    except ValueError:
        pass  # perhaps a date
    try:
        moment = datetime.fromisoformat(value.strip()) if isinstance(value, str) else None
    except ValueError:
        return None
    if moment is None:
        return None
    return math.floor((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def to_flag(value: Any) -> bool:
    """Return whether a field says true; older dumps hold strings."""
    return value is True or (isinstance(value, str) and value.lower() == "true") or value == 1


def _submission(row: dict[str, Any]) -> Submission:
    """Return the submission in a JSON row or CSV row; ValueError names the bad field."""
    if not isinstance(row.get("url"), str):
        raise ValueError("no-url")
    try:
        score = to_integer(row.get("score"))
    except ValueError:
        raise ValueError("no-score" if row.get("score") is None else "bad-score") from None
    domain = row.get("domain")  # self.SUBREDDIT for self posts, also where is_self is absent
    return Submission(
        url=clean_string(row["url"]),
        score=score,
        id=clean_string(row.get("id")),
        created=to_time(row.get("created_utc", row.get("date"))),
        subreddit=clean_string(row.get("subreddit")),
        is_self=to_flag(row.get("is_self"))
        or (isinstance(domain, str) and domain.startswith("self.")),
        over_18=to_flag(row.get("over_18")),
    )


def parse_json(line: bytes) -> Submission:
    """Return the submission on a line of JSON.

    Raises:
        ValueError: there is none; the message is the reason.
    """
    try:
        row = json.loads(line.decode("utf-8").removeprefix("\ufeff"))
    except UnicodeDecodeError:
        raise ValueError("not-utf8") from None
    except (ValueError, RecursionError):  # a bomb of brackets
        raise ValueError("not-json") from None
    if not isinstance(row, dict):
        raise ValueError("not-an-object")
    return _submission(row)


def csv_parser(path: Path, header: bytes) -> Parser:
    """Return the parser of a CSV file with this first line; a record is one line.

    Raises:
        ValueError: a needed column is missing.
    """
    names = [name.strip().lower() for name in _cells(header.removeprefix(b"\xef\xbb\xbf"))]
    missing = [name for name in CSV_COLUMNS if name not in names]
    if missing:
        raise ValueError(
            f"{path}: a CSV of links needs the columns {', '.join(CSV_COLUMNS)}; "
            f"missing: {', '.join(missing)}; found: {', '.join(names)[:200]}"
        )

    def parse(line: bytes) -> Submission:
        cells = _cells(line)
        if len(cells) != len(names):
            raise ValueError("wrong-number-of-columns")
        return _submission(dict(zip(names, cells, strict=True)))

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
