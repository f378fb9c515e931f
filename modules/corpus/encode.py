"""One shard of documents to the ids of its texts: the part of making tokens that is spread.

Each shard is encoded on its own into a work file, whole or absent, so that it can be done in any
process and is done once, however often the run is started again.
"""

import hashlib
import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from modules import tokenizer as bpe
from modules.corpus.document import read_documents
from modules.corpus.splits import SPLITS, Split, TokensConfig, fractions, split_of_document
from modules.fast_encode import FastEncoder
from modules.files import atomic_write

WORK = "work"  # directory of the work files, there until the index is written
FORMAT = 2  # of a work file; 2: with the documents' sources


@dataclass(frozen=True)
class Job:
    """One shard of documents to encode, and where its ids go."""

    shard: Path
    shard_sha256: str
    tokenizer: Path
    tokenizer_sha256: str
    config: TokensConfig
    out: Path

    @property
    def work(self) -> Path:
        """Return the work file's path, another one for every other content."""
        settings = fractions(self.config)
        content = json.dumps([FORMAT, self.shard_sha256, self.tokenizer_sha256, settings])
        key = hashlib.sha256(content.encode()).hexdigest()[:16]
        return self.out / WORK / f"{self.shard.name}-{key}.ids"


@dataclass
class _Part:
    """What one shard of documents gives to one split."""

    names: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    bytes: int = 0
    ids: list[np.ndarray] = field(default_factory=list)

    def header(self) -> dict[str, Any]:
        """Return what the ids are of."""
        given = {"names": self.names, "sources": self.sources, "lengths": self.lengths}
        return {**given, "bytes": self.bytes}

    def joined(self, dtype: np.dtype[Any]) -> np.ndarray:
        """Return all ids, which have been checked to fit (tokens,)."""
        return np.concatenate([*self.ids, np.empty(0, dtype)], dtype=dtype, casting="same_kind")


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the little-endian integer type that holds every id of a vocabulary."""
    return np.dtype("<u2") if vocab_size <= 2**16 else np.dtype("<u4")


def check_ids(ids: np.ndarray, vocab_size: int, document_id: str) -> np.ndarray:
    """Return unsigned ids (tokens,), refusing any outside the vocabulary (it would wrap around)."""
    if len(ids) and np.maximum.reduce(ids) >= vocab_size:
        raise ValueError(
            f"document {document_id}: a token id is outside the vocabulary of {vocab_size}"
        )
    return ids


def encode_shard(job: Job) -> Path:
    """Encode one shard of documents into its work file, unless a run before this one has.

    The work file is a line of JSON, {split: {names, sources, lengths, bytes}}, and the ids of each
    split. A shard on which a process died (by a fault of the young encoder, if not by a kill) is
    done by tiktoken on the next try: the mark `.trying` is left of it.
    """
    if job.work.exists():
        return job.work
    trying = job.work.with_suffix(".trying")
    fast = not trying.exists()
    trying.parent.mkdir(parents=True, exist_ok=True)
    trying.touch()
    encoder = _encoder(job.tokenizer, job.tokenizer_sha256, fast)
    parts = _encode(job, *encoder)
    dtype = token_dtype(encoder[0].n_vocab)
    with atomic_write(job.work) as file:
        header = {split: part.header() for split, part in parts.items()}
        file.write(orjson.dumps(header, option=orjson.OPT_APPEND_NEWLINE))
        for part in parts.values():
            file.write(part.joined(dtype).data)
    trying.unlink(missing_ok=True)
    return job.work


def _encode(job: Job, tokenizer: bpe.Tokenizer, encoder: FastEncoder) -> dict[Split, _Part]:
    """Return what each split gets of a shard, end-of-text behind each document."""
    parts = {split: _Part() for split in SPLITS}
    end = np.array([tokenizer.eot], dtype=np.uint32)
    for document in read_documents(job.shard):
        ids, size = encoder.encode_sized(document.text)
        check_ids(ids, tokenizer.n_vocab, document.id)
        part = parts[split_of_document(document, job.config)]
        part.names.append(document.id)
        part.sources.append(document.source)
        part.lengths.append(len(ids) + 1)
        part.ids += [ids, end]
        part.bytes += size
    return parts


@lru_cache(maxsize=4)
def load_once(directory: Path, stamp: tuple[int, ...]) -> bpe.Tokenizer:
    """Load a tokenizer that has not changed since only once in each process."""
    return bpe.load(directory)


def stamp(directory: Path) -> tuple[int, ...]:
    """Return when the files of a directory were written last."""
    return tuple(sorted(path.stat().st_mtime_ns for path in directory.iterdir()))


@lru_cache(maxsize=4)
def _encoder(directory: Path, digest: str, fast: bool) -> tuple[bpe.Tokenizer, FastEncoder]:
    """Return a tokenizer and its encoder for corpora, once for each process."""
    tokenizer = load_once(directory, stamp(directory))
    if tokenizer.sha256 != digest:
        raise ValueError(f"{directory}: the tokenizer changed during the run: start again")
    return tokenizer, FastEncoder(tokenizer, fast=fast)
