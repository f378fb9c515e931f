"""What a model has answered so far, so that a killed evaluation goes on where it stopped.

A line holds the answers of one pass over the model under its key. Passes are planned from the whole
list of items (modules/evaluation/reading.py), so a run that is started again makes the same ones
and skips those that are in the journal: its results are the same to the last bit.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modules.files import write_bytes

Remember = Callable[[str, Callable[[], Any]], Any]
"""remember(key, ask) -> what ask() answers, or answered earlier under this key (JSON values)."""


def afresh(key: str, ask: Callable[[], Any]) -> Any:
    """Ask, and remember nothing."""
    return ask()


class Journal:
    """Answers under their keys, each appended to a file as one line as soon as it is there."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        """Go on with a journal about the same thing, or begin a new one in its place."""
        first = json.dumps(about, sort_keys=True)
        lines = whole_lines(path)
        if lines[:1] != [first]:
            lines = [first]
        self.path = path
        self.answers: dict[str, Any] = dict(map(json.loads, lines[1:]))
        write_bytes(path, "".join(f"{line}\n" for line in lines).encode())
        self._file = path.open("ab", buffering=0)

    def remember(self, key: str, ask: Callable[[], Any]) -> Any:
        """Return what is known under a key, or ask and note it."""
        if key not in self.answers:
            answer = ask()
            self._file.write(json.dumps([key, answer]).encode() + b"\n")
            self.answers[key] = answer
        return self.answers[key]

    def close(self, *, finished: bool = False) -> None:
        """Close the file; delete it where nothing is left to ask."""
        self._file.close()
        if finished:
            self.path.unlink()


def whole_lines(path: Path) -> list[str]:
    """Return the lines of a journal up to the one that a kill cut off or a crash damaged."""
    lines: list[str] = []
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else []:
        try:
            json.loads(line)
        except ValueError:
            break
        lines.append(line.decode())
    return lines
