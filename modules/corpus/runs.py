"""Sort more rows than fit in memory: sorted files, merged (Knuth, volume 3, section 5.4).

A run is a file of JSON lines in the order of their ids, and an array with a row for each line
(its id at least, for documents the sketch as well), so that lines are merged without being read.
"""

import heapq
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from modules.corpus.sketches import write_array
from modules.corpus.tables import array_chunks
from modules.files import json_line, read_lines, write_lines
from modules.parallel import Spread

FAN_IN = 64  # files merged at once
BLOCK = 2**14  # bytes of each read at once
ROWS = 128  # rows of each array in memory
LEVEL = 1  # of compression: these files are for one run only
ID = np.dtype([("id", "<u8")])

Row = tuple[int, bytes, Any]
"""Id, line, row of the array."""


@dataclass(frozen=True)
class Run:
    """Lines in the order of their ids, and the array beside them, which is written last."""

    lines: Path
    array: Path


def run_at(directory: Path, name: str) -> Run:
    """Return the run of this name."""
    return Run(directory / f"{name}.jsonl.zst", directory / f"{name}.npy")


def id_of(text: str) -> int:
    """Return a document's id as a number.

    Raises:
        ValueError: it is not one that document_id makes.
    """
    if not re.fullmatch("[0-9a-f]{16}", text):
        raise ValueError(f"document id {text!r}: expected 16 hex digits (document_id)")
    return int(text, 16)


def write_rows(run: Run, rows: list[dict[str, Any]], array: np.ndarray) -> None:
    """Sort rows that are in memory into a run."""
    lines = [json_line(row) for row in rows]
    order = sorted(range(len(lines)), key=lambda i: (int(array["id"][i]), lines[i]))
    write_lines(run.lines, (lines[i] for i in order), LEVEL)
    write_array(run.array, array[order])


def ids_of(rows: list[dict[str, Any]]) -> np.ndarray:
    """Return an array that holds only the ids of rows."""
    return np.array([(id_of(row["id"]),) for row in rows], dtype=ID)


def read_run(run: Run) -> Iterator[Row]:
    """Yield the rows of a run."""
    lines = read_lines(run.lines, BLOCK)
    for piece in array_chunks(run.array, ROWS):
        for number, row in zip(piece["id"].tolist(), piece, strict=True):
            yield number, next(lines), row


def merge(runs: Iterable[Run]) -> Iterator[Row]:
    """Yield the rows of runs in the order of their ids, equal ids by their lines."""
    return heapq.merge(*map(read_run, runs), key=itemgetter(0, 1))


def merged(runs: list[Run], directory: Path, name: str, spread: Spread) -> list[Run]:
    """Merge runs until they are few enough to be open at once."""
    level = 0
    while len(runs) > FAN_IN:
        groups = [runs[i : i + FAN_IN] for i in range(0, len(runs), FAN_IN)]
        runs = [run_at(directory, f"{name}-{level}-{i:05d}") for i in range(len(groups))]
        for _ in spread(merge_into, zip(groups, runs, strict=True)):
            pass
        level += 1
    return runs


def merge_into(item: tuple[list[Run], Run]) -> None:
    """Merge some runs into a longer one, unless an earlier try did."""
    runs, target = item
    if target.array.exists():
        return
    arrays = [np.load(run.array, mmap_mode="r", allow_pickle=False) for run in runs]
    unfinished = target.array.with_suffix(".tmp")
    shape = (sum(map(len, arrays)),)
    array = np.lib.format.open_memmap(unfinished, "w+", arrays[0].dtype, shape)

    def lines() -> Iterator[bytes]:
        for i, (_, line, row) in enumerate(merge(runs)):
            array[i] = row
            yield line

    write_lines(target.lines, lines(), LEVEL)
    array.flush()
    unfinished.replace(target.array)
