"""Files that are whole or absent: atomic writes, hashes, JSON lines plain or zstd-compressed."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import orjson
import zstandard

Progress = Callable[[int, int, str], None]
"""Called as progress(done, total, note) by long steps; units are the step's own."""

MAX_LINE = 64 * 2**20  # bytes; a longer line is a damaged file, not a document


def silent(done: int, total: int, note: str = "") -> None:
    """Report progress to nobody."""


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Have errors of writing say which file it was: those of a full disk do not by themselves."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that becomes `path` only when the block ends without error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with named_errors(path), temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        fsync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


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


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file atomically."""
    with atomic_write(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, keys sorted so that equal values are equal bytes."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    write_bytes(path, text.encode() + b"\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows as JSON lines atomically, zstd-compressed for .zst; return how many."""
    return write_lines(path, map(json_line, rows))


def json_line(row: dict[str, Any]) -> bytes:
    """Return a row as one line of a .jsonl file, without its end; equal rows are equal bytes."""
    return orjson.dumps(row, option=orjson.OPT_SORT_KEYS)


def write_lines(path: Path, lines: Iterable[bytes], level: int = 3) -> int:
    """Write lines atomically, zstd-compressed for .zst; return how many."""
    n = 0
    with atomic_write(path) as raw:
        compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)
        file = compressor.stream_writer(raw, closefd=False) if path.suffix == ".zst" else raw
        for line in lines:
            file.write(line + b"\n")
            n += 1
        if file is not raw:
            file.close()
    return n


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    r"""Yield the rows of a .jsonl or .jsonl.zst file that we or a task set wrote.

    Lines end at \n only (texts may hold U+2028). For foreign dumps, where single lines may be
    damaged, use modules.corpus.links instead.

    Raises:
        ValueError: a line is not a JSON object; the message names file and line.
    """
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = _parsed(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: expected an object, got {line[:40]!r}")
        yield row


def read_lines(path: Path, block: int = 2**16) -> Iterator[bytes]:
    """Yield the lines of a .jsonl or .jsonl.zst file undecoded, without their ends."""
    yield from _lines(path, read_blocks(path, block))


def read_blocks(path: Path, block: int = 2**16) -> Iterator[bytes]:
    """Yield the content of a plain or zstd file in pieces that end anywhere."""
    with path.open("rb") as raw:
        plain = iter(lambda: raw.read(block), b"")
        yield from _unpacked(path, plain) if path.suffix == ".zst" else plain


def _parsed(line: bytes) -> Any:
    """Parse JSON, lone surrogates and NaN too (only the slow parser reads those)."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return json.loads(line)


def _unpacked(path: Path, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the content of a zstd file, frame by frame.

    Raises:
        ValueError: it is no zstd, or ends in the middle of a frame (stream_reader would be silent).
    """
    frame = None
    data = b""
    while data or (data := next(blocks, b"")):
        if frame is None:
            frame = zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()
        try:
            yield frame.decompress(data)
        except zstandard.ZstdError as error:
            raise ValueError(f"{path}: damaged zstd data ({error}); get the file again") from None
        data = b""
        if frame.eof:
            data, frame = frame.unused_data, None
    if frame is not None:
        raise ValueError(f"{path}: cut off in the middle of its zstd data; get the file again")


def _lines(path: Path, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield lines ended by a newline byte (the last one may lack it)."""
    rest = b""
    for block in blocks:
        *whole, rest = (rest + block).split(b"\n")
        if len(rest) > MAX_LINE:
            raise ValueError(f"{path}: a line is longer than {MAX_LINE >> 20} MiB")
        yield from whole
    if rest:
        yield rest
