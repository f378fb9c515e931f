"""The append-only event file of a training run, and the small files beside it.

The training process appends JSON lines, whoever started it reads them; a dead reader or a dead
tracking server never stops a step (DESIGN.md, decision 3).
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from modules.files import named_errors, write_json


class EventFile:
    """An append-only file of JSON lines; each start of the process is an attempt of its own.

    A resumed run repeats the steps after its checkpoint; readers take the last line of a step.
    """

    def __init__(self, path: Path, *, silent: bool = False) -> None:
        """Take the file; `silent` for all ranks but the first."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.silent = path, silent
        self.attempt = 1 + max((e["attempt"] for e in read_events(path)), default=0)
        self.step = 0

    def __call__(self, event: dict[str, Any]) -> None:
        """Append one event in a single write."""
        self.step = event.get("step", self.step)
        if self.silent:
            return
        line = json.dumps({**event, "attempt": self.attempt, "time": time.time()})
        with named_errors(self.path), self.path.open("ab") as file:
            if file.tell() and not _ends_with_newline(self.path):
                line = "\n" + line  # a killed attempt left half a line
            file.write(line.encode() + b"\n")

    def status(self, state: str, *, error: str = "") -> None:
        """Write the status file by rename."""
        if not self.silent:
            values = {"state": state, "step": self.step, "error": error}
            write_json(beside(self.path, "status"), values)


def beside(events: Path, what: str) -> Path:
    """Return the path of the job, status or log file that belongs to an event file."""
    return events.with_suffix(".log" if what == "log" else f".{what}.json")


def follow_events(path: Path) -> Callable[[], Iterator[dict[str, Any]]]:
    """Return a function that yields the events appended since its last call (from now on)."""
    position = path.stat().st_size if path.exists() else 0

    def new() -> Iterator[dict[str, Any]]:
        nonlocal position
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(position)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        position += len(whole)
        yield from _parse(whole)

    return new


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return all whole events of a file, in the order they were written."""
    return list(_parse(path.read_bytes())) if path.exists() else []


def _parse(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.split(b"\n"):
        try:
            event = json.loads(line) if line else None
        except ValueError:  # the end of a line that a killed attempt did not finish
            continue
        if isinstance(event, dict):
            yield event


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
