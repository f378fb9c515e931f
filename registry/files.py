"""What the registry needs of the file system: hashes, durable trees, safe names, locks."""

import fcntl
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

NAME = re.compile(r"[a-z0-9_-][a-z0-9._-]{0,99}")


class BusyError(ValueError):
    """Somebody else holds what was asked for; the message names the holder."""


def check_name(name: str) -> str:
    """Return a name that is safe as a folder name and in addresses.

    Raises:
        ValueError: anything but [a-z0-9._-]{1,100} without a leading dot.
    """
    if not NAME.fullmatch(name):
        raise ValueError(
            f"name {name[:120]!r} is not allowed: use 1 to 100 of a-z 0-9 . _ -, no leading dot"
        )
    return name


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Return the hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def canonical(value: Any) -> str:
    """Return the one JSON text of a value: keys sorted, no spaces, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def list_files(root: Path) -> list[Path]:
    """Return every file below a directory, sorted by its relative path.

    Raises:
        ValueError: something is neither a plain file nor a directory (a link, a socket).
    """
    found: list[Path] = []
    for entry in root.iterdir():
        if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
            raise ValueError(f"{entry}: an artifact holds plain files and folders only")
        found.extend(list_files(entry) if entry.is_dir() else [entry])
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def fsync(path: Path) -> None:
    """Make a file's bytes, or a directory's names, durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fsync_all(paths: Iterable[Path]) -> None:
    """Make many files or directories durable; side by side, for they share the disk's commits."""
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(fsync, paths))


def fsync_tree(root: Path) -> None:
    """Make a whole directory durable: its files, then the names of them, deepest first."""
    walk = [(Path(folder), files) for folder, _, files in os.walk(root, topdown=False)]
    fsync_all(folder / name for folder, files in walk for name in files)
    for folder, _ in walk:
        fsync(folder)


def write_whole(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file that is either whole and durable or not there; `mode` is cut by the umask."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def move_aside(path: Path, why: str) -> Path:
    """Rename something damaged or unfinished out of the way, keeping its bytes."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    aside = path.with_name(f"{path.name}.{why}-{stamp}")
    path.rename(aside)
    fsync(path.parent)
    return aside


@contextmanager
def locked(path: Path, *, wait: bool = True, seconds: float | None = None) -> Iterator[None]:
    """Hold an exclusive lock; it ends with the block or with the process, however that dies.

    Raises:
        BusyError: it is held and `wait` is off, or `seconds` have passed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        _acquire(file, path, wait=wait, seconds=seconds)
        _write_holder(file)
        yield  # closing the file releases the lock


def _acquire(file: IO[str], path: Path, *, wait: bool, seconds: float | None) -> None:
    """Take the lock, polling where the wait is bounded."""
    if wait and seconds is None:
        fcntl.flock(file, fcntl.LOCK_EX)
        return
    deadline = time.monotonic() + (seconds or 0.0 if wait else 0.0)
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise BusyError(f"{path.stem} is held by {_holder(path)}") from None
        time.sleep(0.05)


def _write_holder(file: IO[str]) -> None:
    """Leave a note for those who find the lock held."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    file.seek(0)
    file.truncate()
    file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
    file.flush()


def _holder(path: Path) -> str:
    """Describe who holds a lock, from its note."""
    try:
        note = json.loads(path.read_text())
    except ValueError:  # the holder is just writing it
        return "another process"
    return f"pid {note['pid']} on {note['host']} since {note['since']}"
