"""Read WARC files of strangers: what was captured where, and one record by its place.

Plain, record-wise compressed (as the standard asks) or compressed as one member. Damage costs
the damaged records: reading goes on at the next place where a record starts.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

MAX_HEADER = 32 * 2**10  # bytes of one WARC or HTTP header
MAX_VERIFIED = 64 * 2**20  # bytes; the digest of a longer record is not checked, to save memory


@dataclass(frozen=True)
class Capture:
    """One HTTP response: where it lies, and what selection goes by."""

    url: str  # as the record spells it
    offset: int  # bytes; where its compressed member (or the bare record) starts
    index: int  # records before it in that member: 0 where every record is a member
    date: str  # ISO 8601
    status: int  # 0 if the server's answer had none
    content_type: str  # lower case, without parameters; empty if not given
    charset: str  # as declared by the HTTP header
    location: str
    whole: bool  # False: cut off by the crawler or the connection


@dataclass(frozen=True)
class Damage:
    """A place in a WARC file that could not be read."""

    offset: int  # of the damaged record, or of the first start that could be found behind it
    reason: str


@dataclass(frozen=True)
class Body:
    """The answer of a server as stored: header fields that say how to read it, and bytes."""

    content_type: str  # with parameters
    content_encoding: str
    transfer_encoding: str
    data: bytes


def read_captures(path: Path) -> Iterator[Capture | Damage]:
    """Yield the HTTP responses of a WARC file, and the places where it is damaged."""
    size = path.stat().st_size
    if size == 0:
        yield Damage(0, "empty")
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        magic = b"\x1f\x8b\x08" if data[:2] == b"\x1f\x8b" else b"WARC/"
        start, seen, last = 0, False, -1
        while 0 <= start < size:
            scan = _Scan(path, data, magic, start)
            for item in scan.run():
                seen = seen or isinstance(item, Capture)
                yield item
            if scan.failure is None:
                return
            offset = scan.failure.offset
            # a start found after the last good record may be that of the damaged one, or of one
            # behind it whose neighbour has lost its first bytes: so it is tried, once
            start = offset if offset > scan.member else data.find(magic, offset + 1)
            if offset != last:
                lost = not seen and start < 0
                yield Damage(offset, "not-a-warc") if lost else scan.failure
            last = offset


class _Scan:
    """One walk from a place in a file to its end, or to a failure that needs a new start."""

    def __init__(self, path: Path, data: mmap.mmap, magic: bytes, start: int) -> None:
        self.path, self.data, self.magic = path, data, magic
        self.member, self.index = start, -1
        self.failure: Damage | None = None

    def run(self) -> Iterator[Capture | Damage]:
        """Yield what is found; `failure` tells afterwards why the walk ended early."""
        with self.path.open("rb") as file:
            file.seek(self.member)
            records = iter(_iterate(file))
            while True:
                try:
                    record = next(records, None)
                except (OSError, ValueError) as error:  # bad compression, bad header
                    self.failure = Damage(self._next_start(), _reason(error))
                    return
                if record is None:
                    return
                self._locate(record.stream_pos)
                length = (record.headers.get("Content-Length") or "").strip()
                if not length.isdecimal() or "WARC-Type" not in record.headers:
                    self.failure = Damage(self.member, "bad-header")
                    return
                item = _look(record, self.member, self.index)
                if isinstance(item, Damage) and item.reason == "truncated":
                    self.failure = item  # a wrong length may have swallowed good records
                    return
                if item is not None:
                    yield item

    def _locate(self, position: int) -> None:
        """Note where a record starts: a new member, or the next one inside the same."""
        end = position + len(self.magic)
        if position > self.member and self.data[position:end] == self.magic:
            self.member, self.index = position, -1
        self.index += 1

    def _next_start(self) -> int:
        """Return where the record after the last good one starts."""
        if self.index < 0:
            return self.member
        found = self.data.find(self.magic, self.member + 1)
        return found if found >= 0 else self.member


def _iterate(file: Any) -> ArchiveIterator:
    """Open an iterator over all records, HTTP left unparsed."""
    return ArchiveIterator(file, parse_http=False, max_header_len=MAX_HEADER)


def _reason(error: Exception) -> str:
    """Name a failure of the reader."""
    text = str(error).lower()
    if "decompress" in text or "gzip" in text:
        return "bad-compression"
    return "bad-header" if "header" in text else text[:100]


def _look(record: WarcRecord, offset: int, index: int) -> Capture | Damage | None:
    """Read one record to its end; return its capture, its damage, or None for other types."""
    headers = record.headers
    declared = record.content_length
    verified = "WARC-Block-Digest" in headers and declared <= MAX_VERIFIED
    intact = record.verify_block_digest() if verified else True
    if record.content_length < declared:  # the check has read all there is
        return Damage(offset, "truncated")
    is_response = record.record_type == WarcRecordType.response and record.is_http
    if is_response:
        try:
            record.parse_http(strict_mode=False, max_header_len=MAX_HEADER)
        except (OSError, ValueError):
            return Damage(offset, "bad-http-header")
    wanted = record.content_length  # what is left of it after the header
    length = sum(len(part) for part in iter(lambda: record.reader.read(2**20), b""))
    if length < wanted:
        return Damage(offset, "truncated")
    if not is_response or record.http_headers is None:
        return None
    return _capture(record, offset, index, length) if intact else Damage(offset, "digest-mismatch")


def _capture(record: WarcRecord, offset: int, index: int, length: int) -> Capture:
    """Take from a response what selection goes by."""
    headers, http = record.headers, record.http_headers
    promised = (http.get("Content-Length") or "").strip()
    # where a crawler stored decoded bytes under the old length, the encoding says so
    short = promised.isdecimal() and "Content-Encoding" not in http and length < float(promised)
    # Common Crawl says what it took a body for where the server did not
    kind = http.get("Content-Type") or headers.get("WARC-Identified-Payload-Type") or ""
    return Capture(
        url=(headers.get("WARC-Target-URI") or "").strip().removeprefix("<").removesuffix(">"),
        offset=offset,
        index=index,
        date=headers.get("WARC-Date") or "",
        status=http.status_code or 0,
        content_type=kind.partition(";")[0].strip().lower(),
        charset=record.http_charset or "",
        location=(http.get("Location") or "").strip(),
        whole=not short and "WARC-Truncated" not in headers,
    )


class BodyReader:
    """Reads responses by their places; cheapest in the order of the file, which stays open."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._at: tuple[Path, int] | None = None
        self._records: Iterator[WarcRecord] = iter(())
        self._passed = 0  # records of the member that are behind us

    def read(self, path: Path, *, offset: int, index: int, limit: int) -> Body:
        """Read the response at a place that read_captures gave, at most `limit` bytes of its body.

        Raises:
            FileNotFoundError: the WARC file is gone.
            ValueError: there is no readable response at this place (any more).
        """
        try:
            record = self._record(path, offset, index)
            record.parse_http(strict_mode=False, max_header_len=MAX_HEADER)
            if record.http_headers is None:
                raise ValueError("not an HTTP response")
            return _body(record, limit)
        except FileNotFoundError:
            raise
        except (StopIteration, OSError, ValueError) as error:
            self._at = None
            raise ValueError(f"{path}, offset {offset}: no record here ({error})") from None

    def _record(self, path: Path, offset: int, index: int) -> WarcRecord:
        """Go to a record: on from the last one if it lies behind it in the same member."""
        if self._at != (path, offset) or index < self._passed:
            self._open(path).seek(offset)
            self._records, self._passed, self._at = iter(_iterate(self._file)), 0, (path, offset)
        while self._passed < index:
            next(self._records)
            self._passed += 1
        self._passed += 1
        return next(self._records)

    def _open(self, path: Path) -> IO[bytes]:
        """Return the open file of a path."""
        if self._file is None or self._file.name != str(path):
            self.close()
            self._file = path.open("rb")
        return self._file

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        self._file = self._at = None


def _body(record: WarcRecord, limit: int) -> Body:
    """Take the body of a response, at most `limit` bytes, and what its header says of it."""
    parts: list[bytes] = []
    while limit > 0 and (part := record.reader.read(min(limit, 2**20))):
        parts.append(part)
        limit -= len(part)
    http = record.http_headers
    return Body(
        content_type=http.get("Content-Type") or "",
        content_encoding=(http.get("Content-Encoding") or "").strip().lower(),
        transfer_encoding=(http.get("Transfer-Encoding") or "").strip().lower(),
        data=b"".join(parts),
    )


def read_body(path: Path, *, offset: int, index: int, limit: int) -> Body:
    """Read one response as BodyReader does."""
    reader = BodyReader()
    try:
        return reader.read(path, offset=offset, index=index, limit=limit)
    finally:
        reader.close()
