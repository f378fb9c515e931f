"""What de-duplication keeps of every document: a row of hashes and what ranks it.

MinHash (Broder 1997) over n-grams, cut into bands (Leskovec et al., "Mining of Massive Datasets",
section 3.4). Only a hash of each band is kept, 8 bytes for `rows` numbers of the signature. The
rows of one file of documents are beside it in an array file, in the order of its lines.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator
from rensa import RMinHash

from modules.config import Config
from modules.corpus.document import Document, read_documents
from modules.corpus.shingles import Unit, exact_hash, ngrams, word_codes
from modules.files import atomic_write

VERSION = 1  # of the hashes: raised when a sketch of the same text changes
NO_DATE = "~"  # sorts after every ISO 8601 date
DATE = 25  # characters of a date that count: 2018-12-31T23:59:59+00:00
BATCH = 2**22  # characters sketched at once


# id; bytes of text; rank key: without de-duplication there is no more
PLAIN = np.dtype([("id", "<u8"), ("size", "<u4"), ("key", f"S{DATE + 25}")])


class DedupConfig(Config):
    """When two documents are the same."""

    near_threshold: float = Field(default=0.7, gt=0, le=1)
    """Jaccard of two documents' n-grams from which the lesser one goes. The replications of
    WebText use 0.5, where two pages of one manual begin to look alike. True copies lie above 0.8
    but lose a part of it to what extraction leaves of their frames: on the sample, any value from
    0.65 to 0.7 finds all of them and joins no others."""

    ngram: int = Field(default=5, ge=1)  # OpenWebText and OpenWebText2: 5-grams
    """Units in an n-gram."""

    ngram_unit: Unit = "word"  # Megatron-LM: character
    """What an n-gram is made of: words in lower case, or characters as they are."""

    permutations: int = Field(default=128, ge=2)  # OpenWebText2: 10, Megatron-LM: 100
    """Numbers in a MinHash signature."""

    bands: int | None = Field(default=None, ge=1)  # Megatron-LM: 10
    """Bands of the signature: documents that agree in all numbers of one are compared. None: as
    few as reach min_recall."""

    min_recall: float = Field(default=0.999, gt=0, lt=1)
    """Probability that a pair just at the threshold is compared at all, unless bands are set."""

    verify: bool = True  # OpenWebText2 does not: its bands decide
    """Compute the Jaccard of the pairs found. Without, a pair that agrees in a band is the same."""

    grouping: Literal["star", "components"] = "star"
    """Which documents go. star: those like a document that stays, so that no chain of likenesses
    joins two texts that differ. components: all but the best of each connected component, as
    Megatron-LM does. On the sample web both join all pages of the truth's groups and nothing
    under 0.5 from a threshold of 0.65 on; at 0.5 chains join 10 pages too many, stars 3."""

    seed: int = 42
    """Seed of the MinHash permutations."""

    @model_validator(mode="after")
    def _bands_have_rows(self) -> "DedupConfig":
        if self.bands and self.bands > self.permutations:
            raise ValueError(f"{self.bands} bands need as many permutations")
        return self

    @property
    def rows(self) -> int:
        """Return the numbers in a band: the most that keep min_recall at the threshold."""
        if self.bands:
            return self.permutations // self.bands
        for rows in range(self.permutations, 1, -1):
            missed = (1 - self.near_threshold**rows) ** (self.permutations // rows)
            if 1 - missed >= self.min_recall:
                return rows
        return 1

    @property
    def dtype(self) -> np.dtype:
        """Return the type of a sketch."""
        bands = self.bands or self.permutations // self.rows
        return np.dtype([*PLAIN.descr, ("exact", "S16"), ("bands", "<u8", (bands,))])

    @property
    def sketched_by(self) -> dict[str, Any]:
        """Return the settings that a sketch follows from."""
        names = {"ngram", "ngram_unit", "permutations", "seed"}
        bands = self.dtype["bands"].shape[0]
        return self.model_dump(include=names) | {"rows": self.rows, "bands": bands}


def sketched_by(config: DedupConfig | None) -> dict[str, Any]:
    """Return what sketches follow from, beside the texts: they are compared only if it is equal."""
    return {"version": VERSION} | (config.sketched_by if config else {})


def sketches_path(documents: Path) -> Path:
    """Return where the sketches of a shard of documents are."""
    name = documents.name.removesuffix(".jsonl.zst").replace("documents", "sketches")
    return documents.with_name(f"{name}.npy")


def sketch_shard(item: tuple[Path, Path, DedupConfig | None]) -> None:
    """Sketch a file of documents, in its order, into another file."""
    source, target, config = item
    write_array(target, sketch(list(read_documents(source)), config))


def sketch(documents: list[Document], config: DedupConfig | None) -> np.ndarray:
    """Return the sketches of documents."""
    found = np.empty(len(documents), dtype=config.dtype if config else PLAIN)
    found["id"] = [int(document.id, 16) for document in documents]
    found["size"] = [len(document.text.encode()) for document in documents]
    found["key"] = [stay_key(document) for document in documents]
    if config is None:
        return found
    size = np.cumsum([0] + [len(document.text) for document in documents]) // BATCH
    for start, end in pairwise([0, *np.flatnonzero(np.diff(size)) + 1, len(documents)]):
        texts = [document.text for document in documents[start:end]]
        if texts:
            found["exact"][start:end], found["bands"][start:end] = _hashes(texts, config)
    return found


def stay_key(document: Document) -> bytes:
    """Return what ranks a document: of two duplicates the one with the smaller key stays.

    Text pinned to val or test first (a copy in train would give the test away), then the
    earliest date, the longest text, the smallest id.
    """
    held_out = document.meta.get("split") in ("val", "test")
    date = (document.date or NO_DATE)[:DATE].ljust(DATE)
    shortness = 2**32 - 1 - len(document.text)
    return f"{0 if held_out else 1}{date}{shortness:08x}{document.id}".encode("ascii", "replace")


def signatures(sets: list[np.ndarray], config: DedupConfig) -> np.ndarray:
    """Return the MinHash signatures of sets of hashes, (sets, permutations) uint32."""
    ends = np.cumsum([0, *map(len, sets)], dtype=np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        np.concatenate(sets), ends, config.permutations, config.seed
    )
    return np.array(matrix.to_rows(), dtype=np.uint32)


def band_hashes(signature: np.ndarray, config: DedupConfig) -> np.ndarray:
    """Return a hash of each band of signatures, (documents, bands)."""
    bands = config.dtype["bands"].shape[0]
    numbers = signature[:, : bands * config.rows].reshape(len(signature), bands, config.rows)
    hashes = np.zeros((len(signature), bands), dtype=np.uint64)
    for k in range(config.rows):
        hashes = (hashes + numbers[:, :, k] + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(32)
    return hashes


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array file atomically."""
    with atomic_write(path) as file:
        np.save(file, array, allow_pickle=False)


def _hashes(texts: list[str], config: DedupConfig) -> tuple[list[bytes], np.ndarray]:
    codes = [word_codes(text) for text in texts]
    exact = [exact_hash(text, c) for text, c in zip(texts, codes, strict=True)]
    pairs = zip(texts, codes, strict=True)
    sets = [ngrams(text, c, config.ngram, config.ngram_unit) for text, c in pairs]
    return exact, band_hashes(signatures(sets, config), config)
