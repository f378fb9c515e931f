"""Exact and near duplicates: MinHash, LSH bands, then the true Jaccard of the pairs found.

GPT-2's paper says only that WebText is de-duplicated (section 2.1); the public replications use
sets of 5-grams. MinHash only proposes pairs here: a document goes when its own 5-grams and those
of a document that stays really overlap. The result depends on the documents alone, not on their
order: they are ranked (older corpora first, then text pinned to val or test, the earliest date,
the longest text, the smallest id), and going down the ranks a document stays unless it is a near
duplicate of one that stays. So no chain of likenesses joins two texts that differ, which
connected components (`grouping`) cannot promise.

sketches.py makes a row of hashes of each document, lsh.py finds pairs in them, verify.py compares
their texts, and this file decides. None holds the corpus, its sketches or its pairs in memory.
"""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from modules.corpus.lsh import (
    FATE,
    HALF,
    PLACE,
    Job,
    Part,
    band_groups,
    band_pairs,
    first_of_equals,
    rank,
    size_of,
    unique_pairs,
)
from modules.corpus.sketches import DedupConfig
from modules.corpus.tables import Buckets, chunks, new_table, table
from modules.corpus.verify import VERIFIED, unverified, verified, write_sets
from modules.files import Progress, silent
from modules.parallel import Spread, one_by_one

Reason = Literal["already_kept", "exact_duplicate", "near_duplicate"]
KINDS: tuple[Reason, ...] = get_args(Reason)
KNOWN, EXACT, NEAR = 1, 2, 3  # places in KINDS, from 1
Rows = np.ndarray | int
FOUND = np.dtype([("id", "<u8"), ("of", "<u8"), ("older", "?"), *FATE.descr[1:]])


@dataclass(frozen=True)
class Duplicate:
    """Why a document goes: the id of the one that stays for it, and how alike they are."""

    of: str
    kind: Reason
    jaccard: float
    """nan where nobody has compared the texts."""
    older: bool = False
    """Whether the one that stays is of the older corpus."""


def find_duplicates(
    parts: Iterable[Part],
    config: DedupConfig | None,
    work: Path,
    *,
    spread: Spread = one_by_one,
    progress: Progress = silent,
) -> Iterator[tuple[int, Duplicate]]:
    """Yield the new documents that go, by their ids as numbers, in that order.

    Args:
        parts: All documents; those of old parts stay, and are compared with new ones only.
        config: None looks for old ids only.
        work: A directory for this function alone; its content is lost.
    """
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    parts = tuple(parts)
    job = Job(work, parts, tuple(map(size_of, parts)), config)
    if not job.total:
        return
    rank(job)
    fates = new_table(work / "fates.bin", FATE, job.total)
    _mark_known(job, fates)
    if config:
        _mark_exact(job, fates)
        _mark_near(job, config, fates, spread, progress)
    yield from _in_order_of_ids(job, fates)
    shutil.rmtree(work)


def _mark_known(job: Job, fates: np.memmap) -> None:
    """Mark new documents whose id an old one has."""
    for pairs in first_of_equals(job, "id") if job.old else ():
        known = pairs[pairs[:, 0] < job.old]
        _mark(fates, known[:, 1], known[:, 0], KNOWN, 1.0)
    fates.flush()


def _mark_exact(job: Job, fates: np.memmap) -> None:
    """Mark new documents whose words a better one has."""
    for pairs in first_of_equals(job, "exact"):
        _mark(fates, pairs[:, 1], pairs[:, 0], EXACT, 1.0)
    fates.flush()


def _mark_near(
    job: Job, config: DedupConfig, fates: np.memmap, spread: Spread, progress: Progress
) -> None:
    """Mark new documents that are like others, as `grouping` says."""
    groups = band_groups(job, config.dtype["bands"].shape[0])
    found: list[Path] = []
    for path in spread(band_pairs, groups):
        found.append(path)
        progress(len(found), len(groups), "groups of bands compared")
    pairs = unique_pairs(job, found)
    progress(len(found), len(groups), f"{len(pairs)} pairs of documents to compare")
    like = _alike(job, config, pairs, spread)
    if config.grouping == "star":
        _mark_star(like, fates)
    else:
        _mark_components(job, config, like, fates, spread)


def _mark(fates: np.ndarray, who: Rows, of: Rows, kind: int, likeness: np.ndarray | float) -> None:
    """Say that documents go, for which, why, and how alike they are."""
    fates["of"][who], fates["kind"][who], fates["jaccard"][who] = of, kind, likeness


def _alike(job: Job, config: DedupConfig, pairs: np.ndarray, spread: Spread) -> Buckets:
    """Return the pairs that are as alike as the threshold, by the rank of the lesser one."""
    with Buckets(job.work / "alike", VERIFIED, len(pairs), job.total) as buckets:
        if config.verify:
            write_sets(job, pairs, spread)
            found = verified(job, job.work / "pairs.bin", config.near_threshold, spread)
        else:
            found = unverified(pairs)
        for rows in found:
            buckets.add(rows, rows["lesser"])
    return buckets


def _by_lesser(buckets: Buckets) -> Iterator[tuple[int, list[tuple[int, int, float]]]]:
    """Yield each lesser document with its (better, lesser, Jaccard), going down the ranks."""
    for rows in buckets:
        rows = rows[np.lexsort((rows["better"], rows["lesser"]))]
        for lesser, group in groupby(_tuples(rows), key=itemgetter(1)):
            yield lesser, list(group)


def _tuples(rows: np.ndarray) -> Iterator[tuple[Any, ...]]:
    return chain.from_iterable(piece.tolist() for piece in chunks(rows))


def _mark_star(buckets: Buckets, fates: np.ndarray) -> None:
    """Mark the documents that are like one that stays, best rank first, by the likest such."""
    for lesser, partners in _by_lesser(buckets):
        stay = [p for p in partners if fates["kind"][p[0]] == 0]
        if stay:
            of, _, likeness = max(stay, key=lambda p: (p[2], -p[0]))
            _mark(fates, lesser, of, NEAR, likeness)


def _mark_components(
    job: Job, config: DedupConfig, buckets: Buckets, fates: np.ndarray, spread: Spread
) -> None:
    """Mark all new documents but the best of each connected component."""
    parent = new_table(job.work / "parent.bin", "<u4", job.total)  # 0 is a root, else rank + 1

    def root(i: int) -> int:
        while up := int(parent[i]):
            parent[i] = parent[up - 1] or up  # path halving
            i = up - 1
        return i

    for lesser, partners in _by_lesser(buckets):
        for better, _, _ in partners:
            best, other = sorted((root(better), root(lesser)))
            if best != other:
                parent[other] = best + 1
    path = job.work / "roots.bin"
    with path.open("wb") as file:
        for i in range(job.old, job.total):
            if parent[i]:
                file.write(np.uint64((root(i) << 32) + i).tobytes())
    pairs = table(path, "<u8")
    for rows in verified(job, path, 0, spread) if config.verify else unverified(pairs):
        _mark(fates, rows["lesser"], rows["better"], NEAR, rows["jaccard"])


def _in_order_of_ids(job: Job, fates: np.ndarray) -> Iterator[tuple[int, Duplicate]]:
    places = table(job.work / "places.bin", PLACE)
    start = 0
    with Buckets(job.work / "found", FOUND, job.total, HALF) as buckets:
        for piece in chunks(fates):
            gone = np.flatnonzero(piece["kind"])
            rows = _found(piece[gone], fates, places, job.old)
            rows["id"] = places["id"][start + gone]
            buckets.add(rows, rows["id"] >> np.uint64(1))
            start += len(piece)
    for rows in buckets:
        for number, of, older, kind, likeness in _tuples(np.sort(rows, order="id")):
            yield number, Duplicate(f"{of:016x}", KINDS[kind - 1], likeness, older)


def _found(gone: np.ndarray, fates: np.ndarray, places: np.ndarray, old: int) -> np.ndarray:
    """Say for documents that go who stays for them.

    The better copy of an exact pair may itself be near another: then both point at that one.
    """
    rows = np.empty(len(gone), dtype=FOUND)
    chained = (gone["kind"] == EXACT) & (fates["kind"][gone["of"]] != 0)
    gone = np.where(chained, fates[gone["of"]], gone)
    rows["of"], rows["older"] = places["id"][gone["of"]], gone["of"] < old
    rows["kind"], rows["jaccard"] = gone["kind"], gone["jaccard"]
    return rows
