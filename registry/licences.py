"""Which works the input files hold and under which licence, as data/LICENSES.md says."""

import fnmatch
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from registry.workspace import Workspace

FILE = "LICENSES.md"
COLUMNS = ("file", "work", "licence")


def named_files(ws: Workspace, configs: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the files below data/ that configs name, relative to it."""
    texts = {text for config in configs for text in _texts(config)}
    found: set[str] = set()
    for text in texts:
        path = ws.data / text
        inside = path.is_relative_to(ws.data) and ".." not in path.parts
        if text and inside and path.exists():
            files = [path] if path.is_file() else path.rglob("*")
            found |= {x.relative_to(ws.data).as_posix() for x in files if x.is_file()}
    return found


def licences(ws: Workspace, files: Iterable[str]) -> list[tuple[str, str]]:
    """Return (work, licence) of the rows of data/LICENSES.md that are about some of the files."""
    table, wanted = ws.data / FILE, list(files)
    if not table.is_file():
        return []
    rows = [_cells(line) for line in table.read_text().splitlines() if line.startswith("|")]
    if not rows or not set(COLUMNS) <= set(rows[0]):
        return []
    at = [rows[0].index(name) for name in COLUMNS]
    found = {
        (row[at[1]], row[at[2]]): None
        for row in rows[2:]
        if len(row) == len(rows[0]) and _is_about(row[at[0]], wanted)
    }
    return list(found)


def _texts(value: Any) -> Iterable[str]:
    """Return every text inside a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)


def _cells(line: str) -> list[str]:
    """Return the cells of a Markdown table's row."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _is_about(patterns: str, files: Iterable[str]) -> bool:
    """Say whether one of some patterns ("web/pages-*, lm/*") means one of the files."""
    wanted = [text.strip().partition(" ")[0] for text in patterns.split(",")]
    return any(
        fnmatch.fnmatchcase(Path(file).as_posix(), pattern) or file.startswith(f"{pattern}.")
        for pattern in wanted
        for file in files
    )
