"""Sort more rows than memory holds: sorted runs on disk, merged."""

import heapq
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from modules.files import read_jsonl, write_jsonl

Row = dict[str, Any]

ROWS_IN_MEMORY = 100_000  # about 100 MB of rows with long addresses


def sort_rows(
    rows: Iterable[Row],
    scratch: Path,
    key: Callable[[Row], Any],
    *,
    rows_in_memory: int = ROWS_IN_MEMORY,
) -> Iterator[Row]:
    """Yield rows in the order of a key, equal ones in the order they came; runs lie in `scratch`.

    The runs are in a directory of their own (`*.tmp`, as `remove_stale` expects) until the end.
    """
    source = iter(rows)
    with tempfile.TemporaryDirectory(dir=scratch, suffix=".tmp") as folder:
        runs: list[Path] = []
        while len(run := sorted(islice(source, rows_in_memory), key=key)) == rows_in_memory:
            runs.append(Path(folder) / f"run-{len(runs):06d}.jsonl.zst")
            write_jsonl(runs[-1], run)
        yield from heapq.merge(*map(read_jsonl, runs), run, key=key)
