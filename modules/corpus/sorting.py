"""Sort more rows than memory holds: sorted runs on disk, merged.

The runs are not compressed: to merge hundreds of them, each may only take the room of a line.
"""

import heapq
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

from modules.files import write_jsonl

Row = dict[str, Any]

ROWS_IN_MEMORY = 10_000  # about 25 MB of rows with 20 fields
MAX_RUNS = 256  # files open at once; systems allow 1,024 at least


def _read(path: Path) -> Iterator[Row]:
    """Yield the rows of a run, a line at a time."""
    with path.open("rb") as file:
        yield from map(json.loads, file)


def sort_rows(
    rows: Iterable[Row],
    scratch: Path,
    key: Callable[[Row], Any],
    *,
    rows_in_memory: int = ROWS_IN_MEMORY,
    max_runs: int = MAX_RUNS,
) -> Iterator[Row]:
    """Yield rows in the order of a key, equal ones in the order they came; runs lie in `scratch`.

    The runs are in a directory of their own (`*.tmp`, as `remove_stale` expects) until the end.
    """
    source = iter(rows)
    with tempfile.TemporaryDirectory(dir=scratch, suffix=".tmp") as folder:
        names = (Path(folder) / f"run-{number:06d}.jsonl" for number in count())
        runs: list[Path] = []
        while len(run := sorted(islice(source, rows_in_memory), key=key)) == rows_in_memory:
            runs.append(next(names))
            write_jsonl(runs[-1], run)
            if len(runs) == max_runs:
                merged = next(names)
                write_jsonl(merged, heapq.merge(*map(_read, runs), key=key))
                for path in runs:
                    path.unlink()
                runs = [merged]
        yield from heapq.merge(*map(_read, runs), run, key=key)
