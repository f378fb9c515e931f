"""The true Jaccard of pairs of documents, with their n-grams on disk.

Documents that occur in a pair are read once more, file by file, and their sets of n-grams kept
as plain files until the pairs are done: 8 bytes an n-gram.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from modules.corpus.lsh import LOW, Job
from modules.corpus.shingles import jaccard, shingles
from modules.corpus.tables import chunks, new_table, table
from modules.files import read_lines
from modules.parallel import Spread

PAIRS = 2**16  # compared at once
SET = np.dtype([("part", "<u4"), ("count", "<u4"), ("start", "<u8")])  # by rank
VERIFIED = np.dtype([("better", "<u4"), ("lesser", "<u4"), ("jaccard", "<f8")])


def verified(job: Job, pairs: Path, least: float, spread: Spread) -> Iterator[np.ndarray]:
    """Yield the pairs of a file that are at least so alike, in its order."""
    count = pairs.stat().st_size // 8
    items = ((job, pairs, start, least) for start in range(0, count, PAIRS))
    yield from spread(compare, items)


def unverified(pairs: np.ndarray) -> Iterator[np.ndarray]:
    """Yield all pairs, of unknown likeness."""
    for piece in chunks(pairs):
        yield _rows(piece, np.full(len(piece), np.nan))


def write_sets(job: Job, pairs: np.ndarray, spread: Spread) -> None:
    """Write the n-grams of all documents that occur in a pair."""
    wanted = new_table(job.work / "wanted.bin", "u1", job.total)
    for piece in chunks(pairs):
        wanted[piece >> np.uint64(32)] = 1
        wanted[piece & LOW] = 1
    wanted.flush()
    sets = new_table(job.work / "sets.bin", SET, job.total)
    for ranks, rows in spread(write_part, ((job, number) for number in range(len(job.parts)))):
        sets[ranks] = rows
    sets.flush()


def write_part(item: tuple[Job, int]) -> tuple[np.ndarray, np.ndarray]:
    """Write the n-grams of one file's documents; return their ranks and where their sets are."""
    job, number = item
    assert job.config is not None
    ranks = np.array(job.ranks(number))
    lines = np.flatnonzero(table(job.work / "wanted.bin", "u1")[ranks])
    rows = np.zeros(len(lines), dtype=SET)
    rows["part"] = number
    with _sets_path(job, number).open("wb") as file:
        for row, text in zip(rows, _texts(job.parts[number].documents, lines), strict=True):
            grams = shingles(text, job.config.ngram, job.config.ngram_unit)
            row["start"], row["count"] = file.tell(), len(grams)
            file.write(grams.tobytes())
    return ranks[lines], rows


def compare(item: tuple[Job, Path, int, float]) -> np.ndarray:
    """Return those of PAIRS pairs of a file that are at least so alike."""
    job, path, start, least = item
    pairs = np.fromfile(path, dtype="<u8", count=PAIRS, offset=8 * start)
    likeness = np.zeros(len(pairs))
    sets = table(job.work / "sets.bin", SET)
    last, of_last = -1, np.empty(0)
    for i, (better, lesser) in enumerate(zip(pairs >> np.uint64(32), pairs & LOW, strict=True)):
        sizes = sorted((int(sets[better]["count"]), int(sets[lesser]["count"])))
        if sizes[0] < least * sizes[1]:  # the smaller set inside the larger would not do
            continue
        if better != last:
            last, of_last = better, _set_of(job, sets[better])
        likeness[i] = jaccard(of_last, _set_of(job, sets[lesser]))
    return _rows(pairs, likeness)[likeness >= least]


def _rows(pairs: np.ndarray, likeness: np.ndarray) -> np.ndarray:
    rows = np.empty(len(pairs), dtype=VERIFIED)
    rows["better"], rows["lesser"], rows["jaccard"] = pairs >> np.uint64(32), pairs & LOW, likeness
    return rows


def _texts(path: Path, lines: np.ndarray) -> Iterator[str]:
    """Yield the texts of some documents of a file, by line."""
    wanted = iter(lines.tolist())
    following = next(wanted, None)
    if following is None:
        return
    for number, line in enumerate(read_lines(path)):
        if number == following:
            yield json.loads(line)["text"]
            following = next(wanted, None)
            if following is None:
                return


def _sets_path(job: Job, number: int) -> Path:
    return job.work / f"sets-{number:05d}.bin"


def _set_of(job: Job, row: np.ndarray) -> np.ndarray:
    path = _sets_path(job, int(row["part"]))
    return np.fromfile(path, dtype="<u8", count=int(row["count"]), offset=int(row["start"]))
