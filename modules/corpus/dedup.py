"""Exact and near duplicates: MinHash, LSH bands, then the true Jaccard of the pairs found.

GPT-2's paper says only that WebText is de-duplicated (section 2.1); the public replications use
sets of word 5-grams. MinHash only proposes pairs here: a document goes when its own 5-grams and
those of a document that stays really overlap. The result depends on the documents alone, not on
their order: they are ranked (text pinned to val or test first, then the earliest date, the
longest text, the smallest id), and going down the ranks a document stays unless it is a near
duplicate of one that stays. So no chain of likenesses joins two texts that differ.

What grows with the corpus: one signature a document here (512 bytes), and the 5-grams of
documents that occur in a proposed pair. `signatures`, `candidate_pairs` and `verified` are the
places to cut for more than one machine: they only share arrays.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from typing import Literal

import numpy as np
from pydantic import Field
from rensa import RMinHash

from modules.config import Config
from modules.corpus.document import Document
from modules.files import Progress, silent

NO_DATE = b"~"  # sorts after every ISO 8601 date
BUCKET_PAIRS = 64  # at most so many better-ranked partners a document in one bucket
SIGNATURE_BATCH = 1024  # documents


class DedupConfig(Config):
    """When two documents are the same."""

    near_threshold: float = Field(default=0.7, gt=0, le=1)
    """Jaccard of two documents' n-grams from which the lesser one goes. The replications of
    WebText use 0.5, where two pages of one manual begin to look alike. True copies lie above 0.8
    but lose a part of it to what extraction leaves of their frames: on the sample, any value from
    0.65 to 0.7 finds all of them and joins no others."""

    ngram: int = Field(default=5, ge=1)  # OpenWebText and OpenWebText2: 5-grams of words
    """Words in an n-gram."""

    permutations: int = Field(default=128, ge=16)  # OpenWebText2 uses 10, Megatron-LM 100
    """Numbers in a MinHash signature."""

    min_recall: float = Field(default=0.999, gt=0, lt=1)
    """Probability that a pair just at the threshold is proposed at all; sets the LSH bands."""

    seed: int = 42
    """Seed of the MinHash permutations."""

    @property
    def rows(self) -> int:
        """Return the rows of an LSH band: the most that keep min_recall at the threshold."""
        for rows in range(self.permutations, 1, -1):
            missed = (1 - self.near_threshold**rows) ** (self.permutations // rows)
            if 1 - missed >= self.min_recall:
                return rows
        return 1


@dataclass(frozen=True)
class Duplicate:
    """Why a document goes: the id of the one that stays for it, and how alike they are."""

    of: str
    kind: Literal["exact_duplicate", "near_duplicate"]
    jaccard: float


@dataclass(frozen=True)
class Sketches:
    """What is kept of every document: a row each in compact arrays."""

    ids: np.ndarray  # (documents,) bytes
    exact: np.ndarray  # (documents,) 16-byte hashes of the normalised text
    signature: np.ndarray  # (documents, permutations) uint32
    rank: np.ndarray  # (documents,) place in the order of who stays; 0 is the best


Match = tuple[int, float]  # row of the document that stays, Jaccard


def find_duplicates(
    read: Callable[[], Iterable[Document]], config: DedupConfig, progress: Progress = silent
) -> dict[str, Duplicate]:
    """Return the documents to drop, by id; read() is called twice and must repeat itself."""
    sketches = sketch(read(), config, progress)
    exact = exact_duplicates(sketches)
    rest = np.array([i for i in range(len(sketches.rank)) if i not in exact], dtype=np.int64)
    pairs = rest[candidate_pairs(sketches.signature[rest], sketches.rank[rest], config)]
    progress(len(rest), len(rest), f"{len(pairs)} pairs to compare")
    near = near_duplicates(verified(pairs, read(), config), sketches.rank)
    # the better copy of an exact pair may itself be near another: then both point at that one
    found = {i: Duplicate(_id(sketches, of), "near_duplicate", j) for i, (of, j) in near.items()}
    for i, first in exact.items():
        found[i] = found.get(first) or Duplicate(_id(sketches, first), "exact_duplicate", 1.0)
    return {_id(sketches, i): duplicate for i, duplicate in sorted(found.items())}


def _id(sketches: Sketches, row: int) -> str:
    return sketches.ids[row].decode()


def words(text: str) -> list[str]:
    """Return the words that likeness is judged by: runs of letters and digits, lower case."""
    return re.findall(r"\w+", text.lower())


def shingles(text: str, n: int) -> np.ndarray:
    """Return the set of a text's word n-grams as sorted 64-bit hashes (at least one)."""
    found = words(text) or [text]
    hashes = np.fromiter(map(_word_hash, found), dtype=np.uint64, count=len(found))
    n = min(n, len(hashes))
    grams = np.zeros(len(hashes) - n + 1, dtype=np.uint64)
    for k in range(n):
        grams = (grams + hashes[k : len(hashes) - n + 1 + k]) * np.uint64(0x9E3779B97F4A7C15)
        grams ^= grams >> np.uint64(29)
    return np.unique(grams)


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Return |a ∩ b| / |a ∪ b| of two sorted sets of hashes."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


def sketch(documents: Iterable[Document], config: DedupConfig, progress: Progress) -> Sketches:
    """Read the documents once and keep their sketches."""
    ids: list[bytes] = []
    exact: list[bytes] = []
    keys: list[tuple[int, bytes, int, bytes]] = []
    parts: list[np.ndarray] = []
    stream = iter(documents)
    while batch := list(islice(stream, SIGNATURE_BATCH)):
        ids += [document.id.encode() for document in batch]
        exact += [exact_hash(document.text) for document in batch]
        keys += [stay_key(document) for document in batch]
        parts.append(signatures([shingles(d.text, config.ngram) for d in batch], config))
        progress(len(ids), 0, "documents sketched")
    rank = np.empty(len(ids), dtype=np.int64)
    rank[sorted(range(len(ids)), key=keys.__getitem__)] = np.arange(len(ids))
    signature = np.concatenate([signatures([], config), *parts])
    return Sketches(np.array(ids, dtype=bytes), np.array(exact, dtype="V16"), signature, rank)


def stay_key(document: Document) -> tuple[int, bytes, int, bytes]:
    """Return what ranks a document: of two duplicates the one with the smaller key stays.

    Text pinned to val or test first (a copy in train would give the test away), then the
    earliest date, the longest text, the smallest id.
    """
    held_out = document.meta.get("split") in ("val", "test")
    date = document.date.encode("ascii", "replace") or NO_DATE
    return 0 if held_out else 1, date, -len(document.text), document.id.encode()


def exact_hash(text: str) -> bytes:
    """Return the hash of a text's words (case, blanks and punctuation do not count)."""
    normal = " ".join(words(text)) or text
    return hashlib.blake2b(normal.encode("utf-8", "replace"), digest_size=16).digest()


def signatures(sets: list[np.ndarray], config: DedupConfig) -> np.ndarray:
    """Return the MinHash signatures of sets of hashes, (sets, permutations) uint32."""
    if not sets:
        return np.empty((0, config.permutations), dtype=np.uint32)
    ends = np.cumsum([0, *map(len, sets)], dtype=np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        np.concatenate(sets), ends, config.permutations, config.seed
    )
    return np.array(matrix.to_rows(), dtype=np.uint32)


def exact_duplicates(sketches: Sketches) -> dict[int, int]:
    """Return row -> better row for every document whose words a better-ranked one has too."""
    best: dict[bytes, int] = {}
    found: dict[int, int] = {}
    for i in np.argsort(sketches.rank).tolist():
        first = best.setdefault(sketches.exact[i].tobytes(), i)
        if first != i:
            found[i] = first
    return found


def candidate_pairs(signature: np.ndarray, rank: np.ndarray, config: DedupConfig) -> np.ndarray:
    """Return pairs of rows that agree in a whole LSH band, (pairs, 2), the better rank first.

    In a huge bucket a document is paired with the BUCKET_PAIRS best ranks only.
    """
    rows, order = config.rows, np.argsort(rank, kind="stable")
    ranked = signature[order]  # better ranks first, so a bucket keeps that order
    pairs: list[np.ndarray] = [np.empty((0, 2), dtype=np.int64)]
    for band in range(config.permutations // rows):
        keys = np.ascontiguousarray(ranked[:, band * rows : (band + 1) * rows])
        view = keys.view(f"V{4 * rows}").ravel()
        by_key = np.argsort(view, kind="stable")
        starts = np.flatnonzero(np.r_[True, view[by_key][1:] != view[by_key][:-1], True])
        for start, end in pairwise(starts.tolist()):
            if end - start > 1:
                pairs.append(_bucket_pairs(by_key[start:end]))
    return order[np.unique(np.concatenate(pairs), axis=0)]


def verified(
    pairs: np.ndarray, documents: Iterable[Document], config: DedupConfig
) -> Iterator[tuple[int, int, float]]:
    """Yield (better, lesser, Jaccard) for the pairs that really are as alike as the threshold.

    `documents` must come in the order that the rows of the pairs count.
    """
    wanted = set(np.unique(pairs).tolist())
    sets = {i: shingles(d.text, config.ngram) for i, d in enumerate(documents) if i in wanted}
    for better, lesser in pairs.tolist():
        likeness = jaccard(sets[better], sets[lesser])
        if likeness >= config.near_threshold:
            yield better, lesser, likeness


def near_duplicates(pairs: Iterable[tuple[int, int, float]], rank: np.ndarray) -> dict[int, Match]:
    """Return the documents that are like one that stays, best rank first, and the likest such."""
    like: dict[int, list[Match]] = defaultdict(list)
    for better, lesser, likeness in pairs:
        like[lesser].append((better, likeness))
    found: dict[int, Match] = {}
    for i in sorted(like, key=lambda i: int(rank[i])):
        stay = [(likeness, -int(rank[j]), j) for j, likeness in like[i] if j not in found]
        if stay:
            likeness, _, of = max(stay)
            found[i] = (of, likeness)
    return found


def _bucket_pairs(members: np.ndarray) -> np.ndarray:
    """Pair the members of a bucket, each with its BUCKET_PAIRS best-ranked ones."""
    better, lesser = np.triu_indices(min(len(members), BUCKET_PAIRS), k=1)
    pairs = [np.stack([members[better], members[lesser]], axis=1)]
    for i in range(BUCKET_PAIRS, len(members)):
        pairs.append(np.stack([members[:BUCKET_PAIRS], np.full(BUCKET_PAIRS, members[i])], axis=1))
    return np.concatenate(pairs)


@lru_cache(maxsize=2**20)
def _word_hash(word: str) -> int:
    """Return a hash of a word that is the same in every process."""
    digest = hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
