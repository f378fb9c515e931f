"""Temporary files and folders that killed processes left: by their names, whose processes are gone.

Unfinished work (NAME.work) stays: the next run of the same step goes on from it.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from registry.files import BusyError, locked
from registry.provenance import process_started
from registry.workspace import Workspace

OWNED = re.compile(r"^\..+\.(?:restore|gone)-(\d+)$|^\..+\.(\d+)\.tmp$")  # ours end in the pid
SET_ASIDE = re.compile(r"\.damaged-\d{8}T\d+$")
UNNAMED = re.compile(r"^tmp[a-z0-9_]{8}$")  # Python's tempfile, which names nobody
OLD = 86_400.0  # seconds after which what names nobody counts as left behind


@dataclass(frozen=True)
class Stray:
    """Something left behind."""

    path: Path
    size: int  # bytes
    why: str


def find(ws: Workspace) -> Iterator[Stray]:
    """Return what dead processes left below artifacts/ and .textmill/."""
    for depth in ("*", "*/*", "*/*/*", "*/*/*/*"):
        for path in sorted(ws.artifacts.glob(depth)):
            if why := _why(path):
                yield Stray(path, size_of(path), why)
    for path in sorted(ws.state.glob("*")):
        why = _why(path)
        if not why and UNNAMED.match(path.name) and _is_old(path):
            why = "a temporary folder of more than a day"
        if why:
            yield Stray(path, size_of(path), why)
    yield from _notes(ws)


def remove(stray: Stray) -> None:
    """Remove what was left behind."""
    if stray.path.is_dir() and not stray.path.is_symlink():
        shutil.rmtree(stray.path)
    else:
        stray.path.unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Return how many bytes a file, or all files of a folder, have."""
    if not path.is_dir():
        return path.lstat().st_size
    walk = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    return sum(file.lstat().st_size for file in walk)


def _why(path: Path) -> str:
    """Say why something is a stray; "" if it is none."""
    if match := OWNED.match(path.name):
        pid = int(match[1] or match[2])
        return "" if process_started(pid) is not None else f"left by process {pid}, which is gone"
    if SET_ASIDE.search(path.name) and _is_old(path):
        return "a damaged copy, set aside when a sound one was brought"
    if path.name.endswith(".work") and path.with_suffix("").is_dir():
        return "work on an artifact that is finished"
    return ""


def _notes(ws: Workspace) -> Iterator[Stray]:
    """Return the small files of killed snapshots and pushes, if nobody is at it."""
    try:
        with locked(ws.state / "locks" / "storage.lock", wait=False):
            for path in sorted((ws.state / "tmp").glob("*")):
                if _is_old(path):
                    yield Stray(path, size_of(path), "a note of a push that ended")
    except BusyError:
        return


def _is_old(path: Path) -> bool:
    return time.time() - path.lstat().st_mtime > OLD
