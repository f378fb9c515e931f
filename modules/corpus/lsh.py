"""Which documents may be alike: passes over sketches on disk, one band at a time.

Documents are known by their rank here (0 is the best), so the smaller number of a pair is always
the one that stays. Sketches are read in pieces; what has a row for each document is a table on
disk. In memory is one bucket of a table, some MiB, whatever the size of the corpus.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from modules.corpus.sketches import PLAIN, DedupConfig
from modules.corpus.tables import MAX_BUCKETS, Buckets, array_chunks, chunks, new_table, table

BUCKET_PAIRS = 64  # at most so many better-ranked partners a document in one bucket
FATE = np.dtype([("of", "<u4"), ("kind", "u1"), ("jaccard", "<f8")])  # kind 0: stays
PLACE = np.dtype([("id", "<u8"), ("part", "<u4"), ("row", "<u4")])
LOW = np.uint64(2**32 - 1)
KEYED = np.dtype([("key", "<u8"), ("rank", "<u4")])
BANDS_AT_ONCE = 8
HALF = 2**63  # above every hash shifted right by one, so that it fits the type


@dataclass(frozen=True)
class Part:
    """A file of documents and their sketches, in the order of the lines; `old` ones stay."""

    documents: Path
    sketches: Path
    old: bool = False


@dataclass(frozen=True)
class Job:
    """What is compared, and where the tables go; small enough to send to a worker."""

    work: Path
    parts: tuple[Part, ...]
    sizes: tuple[int, ...]
    config: DedupConfig | None

    @property
    def dtype(self) -> np.dtype:
        """Return the type of a sketch."""
        return self.config.dtype if self.config else PLAIN

    @property
    def total(self) -> int:
        """Return the number of documents."""
        return sum(self.sizes)

    @property
    def old(self) -> int:
        """Return the number of old documents: theirs are the ranks below it."""
        return sum(size for size, part in zip(self.sizes, self.parts, strict=True) if part.old)

    def ranks(self, number: int) -> np.ndarray:
        """Return the ranks of a part's documents, in the order of its lines."""
        start = sum(self.sizes[:number])
        ranks: np.ndarray = table(self.work / "ranks.bin", "<u4")
        return ranks[start : start + self.sizes[number]]

    def sketches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield sketches and ranks in pieces."""
        for number in range(len(self.parts)):
            start, ranks = 0, self.ranks(number)
            for rows in array_chunks(self.parts[number].sketches):
                yield rows, np.array(ranks[start : start + len(rows)])
                start += len(rows)


def size_of(part: Part) -> int:
    """Return the number of documents of a part."""
    return len(np.load(part.sketches, mmap_mode="r", allow_pickle=False))


def rank(job: Job) -> None:
    """Number all documents from the best to the worst: ranks.bin by line, places.bin by rank."""
    dtype = [("key", f"S{job.dtype['key'].itemsize + 1}"), *PLACE.descr]
    buckets = Buckets(job.work / "rank", dtype, job.total, job.total)
    limits = _splitters(job, buckets.count)
    with buckets:
        for number, part in enumerate(job.parts):
            start = 0
            for sketches in array_chunks(part.sketches):
                rows = np.empty(len(sketches), dtype=dtype)
                rows["key"], rows["id"] = _keys(part, sketches["key"]), sketches["id"]
                rows["part"], rows["row"] = number, start + np.arange(len(rows))
                buckets.scatter(rows, np.searchsorted(limits, rows["key"], side="right"))
                start += len(rows)
    ranks = new_table(job.work / "ranks.bin", "<u4", job.total)
    places = new_table(job.work / "places.bin", PLACE, job.total)
    starts, done = np.cumsum([0, *job.sizes]), 0
    for rows in buckets:
        rows = rows[np.lexsort((rows["row"], rows["part"], rows["key"]))]
        for name in PLACE.names or ():
            places[name][done : done + len(rows)] = rows[name]
        ranks[starts[rows["part"]] + rows["row"]] = done + np.arange(len(rows))
        done += len(rows)
    ranks.flush()
    places.flush()


def _keys(part: Part, keys: np.ndarray) -> np.ndarray:
    return np.strings.add(b"0" if part.old else b"1", keys)


def _splitters(job: Job, count: int) -> np.ndarray:
    """Return count - 1 keys that divide the documents about evenly."""
    step = max(1, job.total // (1000 * count))
    sample = [
        _keys(part, rows["key"][::step])
        for part in job.parts
        for rows in array_chunks(part.sketches)
    ]
    ordered = np.sort(np.concatenate(sample))
    return ordered[[len(ordered) * k // count for k in range(1, count)]]


def first_of_equals(job: Job, field: str) -> Iterator[np.ndarray]:
    """Yield (better, lesser) for documents that share this field of the sketch with a better one.

    The better one is the best that has it. Documents that go already are left out.
    """
    gone = table(job.work / "fates.bin", FATE)["kind"]
    keyed = [("key", job.dtype[field]), ("rank", "<u4")]
    buckets = Buckets(job.work / field, keyed, job.total, HALF)
    with buckets:
        for sketches, ranks in job.sketches():
            compared = gone[ranks] == 0
            _add(buckets, np.array(sketches[field][compared]), ranks[compared])
    for rows in buckets:
        ranked, first = _grouped(rows)
        lesser = np.flatnonzero(first < np.arange(len(first)))
        pairs = np.stack([ranked[first[lesser]], ranked[lesser]], axis=1)
        yield pairs[pairs[:, 1] >= job.old]


def band_groups(job: Job, bands: int) -> list[tuple[Job, range]]:
    """Divide the bands into groups whose files can be open at once."""
    files = Buckets(job.work, KEYED, job.total, HALF).count
    step = max(1, min(BANDS_AT_ONCE, MAX_BUCKETS // files))
    return [(job, range(start, min(start + step, bands))) for start in range(0, bands, step)]


def band_pairs(item: tuple[Job, range]) -> Path:
    """Write the pairs that agree in one of some bands: (better << 32) + lesser, in no order.

    Old documents are compared with new ones only. In a huge bucket a document is paired with the
    BUCKET_PAIRS best ranks only.
    """
    job, bands = item
    gone = table(job.work / "fates.bin", FATE)["kind"]
    tables = [Buckets(job.work / f"band-{b}", KEYED, job.total, HALF) for b in bands]
    with ExitStack() as stack:
        for buckets in tables:
            stack.enter_context(buckets)
        for sketches, ranks in job.sketches():
            compared = gone[ranks] == 0
            for band, buckets in zip(bands, tables, strict=True):
                _add(buckets, np.array(sketches["bands"][compared, band]), ranks[compared])
    path = job.work / f"pairs-{bands[0]}.bin"
    with path.open("wb") as file:
        for rows in chain.from_iterable(tables):
            for pairs in bucket_pairs(*_grouped(rows)):
                file.write(pairs[pairs & LOW >= job.old].tobytes())
    return path


def bucket_pairs(ranked: np.ndarray, first: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the pairs of each group's members with its k-th best, k by k."""
    ranked = ranked.astype(np.uint64)
    position = np.arange(len(first)) - first
    members = np.arange(len(first))
    for k in range(BUCKET_PAIRS):
        members = members[position[members] > k]
        if not len(members):
            return
        yield (ranked[first[members] + k] << np.uint64(32)) + ranked[members]


def unique_pairs(job: Job, found: list[Path]) -> np.ndarray:
    """Bring the pairs of all bands together, each once and in order; return them as a table."""
    total = sum(path.stat().st_size for path in found) // 8
    with Buckets(job.work / "pairs", "<u8", total, job.total << 32) as buckets:
        for path in found:
            for pairs in chunks(table(path, "<u8")):
                buckets.add(pairs, pairs)
            path.unlink()
    path = job.work / "pairs.bin"
    with path.open("wb") as file:
        for pairs in buckets:
            file.write(np.unique(pairs).tobytes())
    return table(path, "<u8")


def _add(buckets: Buckets, keys: np.ndarray, ranks: np.ndarray) -> None:
    rows = np.empty(len(keys), dtype=buckets.dtype)
    rows["key"], rows["rank"] = keys, ranks
    leading = keys.view("<u8")[:: keys.dtype.itemsize // 8]
    buckets.add(rows, leading >> np.uint64(1))


def _grouped(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort by key, then rank; return the ranks, and for each where its group of equals begins."""
    rows = rows[np.lexsort((rows["rank"], rows["key"]))]
    begins = np.ones(len(rows), dtype=bool)
    begins[1:] = rows["key"][1:] != rows["key"][:-1]
    first = np.maximum.accumulate(np.where(begins, np.arange(len(rows)), 0))
    return rows["rank"], first
