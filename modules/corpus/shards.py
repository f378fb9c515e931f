"""Documents to token files and back: one stream of ids per split, cut into shards.

The layout is nanoGPT's (data/openwebtext/prepare.py): each document's ids with end-of-text
appended, one after the other, uint16 where the vocabulary fits. index.json says what is there:
{dtype, vocab_size, eot, tokenizer_sha256, splits: {NAME: {tokens, documents, bytes, shards:
[{file, tokens, sha256}]}}}. NAME-documents.jsonl.zst has a row {id, start, length} per document,
counted in tokens of its split, end-of-text included.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, Self, get_args

import numpy as np
import zstandard
from pydantic import Field, model_validator

from modules import tokenizer as bpe
from modules.config import Config
from modules.corpus.document import Document, read_documents
from modules.files import Progress, atomic_write, read_jsonl, sha256, silent, write_json

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
BATCH = 256  # documents encoded at once


class TokensConfig(Config):
    """How documents are divided into splits and shards."""

    val_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of documents held out for tuning: 5 % in the GPT-2 paper (section 3), 0.05 % in
    nanoGPT's OpenWebText. A document with meta["split"] goes there whatever its hash says."""

    test_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of documents kept for the last word; the paper gives no size, we take 5 % again."""

    tokens_per_shard: int = Field(default=2**26, ge=1)
    """Tokens in one file (a document may run on in the next one); 2^26 are 128 MiB as uint16."""

    @model_validator(mode="after")
    def _leaves_training_text(self) -> Self:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction + test_fraction must stay below 1")
        return self


def split_of(document_id: str, config: TokensConfig) -> Split:
    """Return the split of a document, from its id alone.

    So it never moves as the corpus grows; a larger fraction only adds documents to a split.
    """
    digest = hashlib.sha256(b"split\0" + document_id.encode("utf-8", "replace")).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64  # uniform on [0, 1)
    if position < config.val_fraction:
        return "val"
    return "test" if position >= 1 - config.test_fraction else "train"


def write_tokens(
    documents: Path, tokenizer: Path, out: Path, config: TokensConfig, progress: Progress = silent
) -> dict[str, int]:
    """Encode a directory of documents into token shards; return counts per split.

    Raises:
        ValueError: no document is left for training, or a document names an unknown split.
    """
    encoder = bpe.load(tokenizer)
    dtype = token_dtype(encoder.n_vocab)
    with ExitStack() as stack:
        writers = {name: _SplitWriter(name, out, dtype, config, stack) for name in SPLITS}
        for done, (document, ids) in enumerate(_encoded(documents, encoder), 1):
            writer = writers[_pinned(document) or split_of(document.id, config)]
            writer.add(document, check_ids(ids, encoder.n_vocab, document.id).astype(dtype))
            if done % 1000 == 0:
                progress(done, 0, f"{sum(w.tokens for w in writers.values())} tokens")
        for writer in writers.values():
            writer.flush()
        if not writers["train"].documents:
            raise ValueError(f"{documents}: no document is left for training, lower the fractions")
    index = {
        "dtype": dtype.name,
        "vocab_size": encoder.n_vocab,
        "eot": encoder.eot,
        "tokenizer_sha256": encoder.sha256,
        "splits": {name: writer.entry() for name, writer in writers.items()},
    }
    write_json(out / "index.json", index)  # last: a directory without it is not finished
    return _counts(writers.values())


def training_texts(documents: Path, config: TokensConfig) -> Iterator[str]:
    """Yield the texts that are for training: what a tokenizer may learn from."""
    for document in read_documents(documents):
        if (_pinned(document) or split_of(document.id, config)) == "train":
            yield document.text


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the little-endian integer type that holds every id of a vocabulary."""
    return np.dtype("<u2") if vocab_size <= 2**16 else np.dtype("<u4")


def check_ids(ids: list[int], vocab_size: int, document_id: str) -> np.ndarray:
    """Return ids as int64, refusing any outside the vocabulary (it would wrap around)."""
    array = np.array(ids, dtype=np.int64)  # (tokens,)
    if len(array) and not 0 <= array.min() <= array.max() < vocab_size:
        raise ValueError(
            f"document {document_id}: a token id is outside the vocabulary of {vocab_size}"
        )
    return array


def _pinned(document: Document) -> Split | None:
    """Return the split that a ready-made text set gave its document, if it did."""
    split = document.meta.get("split")
    if split is not None and split not in SPLITS:
        raise ValueError(f"document {document.id}: unknown split {split!r}, expected {SPLITS}")
    return split


def _encoded(documents: Path, encoder: bpe.Tokenizer) -> Iterator[tuple[Document, list[int]]]:
    """Yield documents with their ids, end-of-text appended."""
    stream = read_documents(documents)
    while batch := list(islice(stream, BATCH)):
        ids = encoder.encode_batch([d.text for d in batch], threads=os.cpu_count() or 1)
        for document, own in zip(batch, ids, strict=True):
            yield document, [*own, encoder.eot]


@dataclass
class _SplitWriter:
    """Collect the tokens of one split and write a shard whenever one is full."""

    name: Split
    out: Path
    dtype: np.dtype[Any]
    config: TokensConfig
    stack: ExitStack
    tokens: int = 0
    documents: int = 0
    bytes: int = 0
    shards: list[dict[str, Any]] = field(default_factory=list)
    pending: list[np.ndarray] = field(default_factory=list)
    waiting: int = 0  # tokens in pending

    def __post_init__(self) -> None:
        raw = self.stack.enter_context(atomic_write(self.out / f"{self.name}-documents.jsonl.zst"))
        compressor = zstandard.ZstdCompressor(level=6).stream_writer(raw, closefd=False)
        self.index: IO[bytes] = self.stack.enter_context(compressor)

    def add(self, document: Document, ids: np.ndarray) -> None:
        """Append one document."""
        row = {"id": document.id, "start": self.tokens, "length": len(ids)}
        self.index.write(json.dumps(row, sort_keys=True).encode() + b"\n")
        self.tokens += len(ids)
        self.documents += 1
        self.bytes += len(document.text.encode("utf-8", "replace"))
        self.pending.append(ids)
        self.waiting += len(ids)
        if self.waiting >= self.config.tokens_per_shard:
            self._write_full_shards()

    def _write_full_shards(self) -> None:
        stream, size = np.concatenate(self.pending), self.config.tokens_per_shard
        whole = len(stream) // size * size
        for start in range(0, whole, size):
            self._write_shard(stream[start : start + size])
        self.pending, self.waiting = [stream[whole:]], len(stream) - whole

    def flush(self) -> None:
        """Write what is left as the last, shorter shard."""
        if self.waiting:
            self._write_shard(np.concatenate(self.pending))
            self.pending, self.waiting = [], 0

    def _write_shard(self, ids: np.ndarray) -> None:
        path = self.out / f"{self.name}-{len(self.shards):05d}.bin"
        data = ids.astype(self.dtype).tobytes()
        with atomic_write(path) as file:
            file.write(data)
        digest = hashlib.sha256(data).hexdigest()
        if sha256(path) != digest:
            raise OSError(f"{path}: read back differently than written: check the disk")
        self.shards.append({"file": path.name, "tokens": len(ids), "sha256": digest})

    def entry(self) -> dict[str, Any]:
        """Return this split's part of index.json."""
        return {
            "tokens": self.tokens,
            "documents": self.documents,
            "bytes": self.bytes,  # UTF-8 of the texts: for bits per byte
            "shards": self.shards,
        }


def _counts(writers: Iterable[_SplitWriter]) -> dict[str, int]:
    counts = {}
    for writer in writers:
        counts[f"{writer.name}.tokens"] = writer.tokens
        counts[f"{writer.name}.documents"] = writer.documents
        counts[f"{writer.name}.bytes"] = writer.bytes
    return counts


class TokenFile:
    """The tokens of one split, mapped from all its shards.

    Attributes:
        vocab_size: number of ids, end-of-text included.
        eot: id of end-of-text.
    """

    def __init__(self, directory: Path, split: str, *, verify: bool = False) -> None:
        """Map the shards; sizes are always checked, hashes with verify=True.

        Raises:
            FileNotFoundError: the index or a shard is missing.
            ValueError: the split is unknown or a shard is damaged.
        """
        index = read_index(directory)
        if split not in index["splits"]:
            raise ValueError(f"{directory}: no split {split!r}, it has {sorted(index['splits'])}")
        self.directory, self.split = directory, split
        self.vocab_size, self.eot = int(index["vocab_size"]), int(index["eot"])
        dtype = np.dtype(index["dtype"]).newbyteorder("<")
        shards = index["splits"][split]["shards"]
        self._shards = [_map_shard(directory, shard, dtype, verify) for shard in shards]
        self._ends = np.cumsum([len(shard) for shard in self._shards], dtype=np.int64)  # (shards,)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __reduce__(self) -> tuple[Any, ...]:
        """Map again in a worker process instead of sending the tokens there."""
        return TokenFile, (self.directory, self.split)

    def read(self, start: int, length: int) -> np.ndarray:
        """Return `length` ids from `start` on as int64 (length,).

        Raises:
            IndexError: the range is not inside the split.
        """
        if start < 0 or length < 0 or start + length > len(self):
            raise IndexError(f"tokens {start}..{start + length} of {len(self)} in {self.split}")
        out = np.empty(length, dtype=np.int64)
        shard = int(np.searchsorted(self._ends, start, side="right"))
        filled = 0
        while filled < length:
            tokens = self._shards[shard]
            begin = start + filled - (int(self._ends[shard]) - len(tokens))
            piece = tokens[begin : begin + length - filled]
            out[filled : filled + len(piece)] = piece
            filled, shard = filled + len(piece), shard + 1
        return out


def read_split(directory: Path, split: str, *, verify: bool = False) -> TokenFile:
    """Open one split of a tokens directory."""
    return TokenFile(directory, split, verify=verify)


def read_held_out(directory: Path) -> TokenFile:
    """Open the split that judges a finished model: test, or val where test has no window of two.

    Settings are chosen on val, so that test stays fresh.
    """
    test = read_split(directory, "test")
    return test if len(test) >= 2 else read_split(directory, "val")


def read_index(directory: Path) -> dict[str, Any]:
    """Return index.json of a tokens directory.

    Raises:
        FileNotFoundError: there is none: the directory is unfinished or of another kind.
    """
    path = directory / "index.json"
    if not path.exists():
        raise FileNotFoundError(f"{path}: missing, so this is no finished directory of tokens")
    return json.loads(path.read_text())


def read_spans(directory: Path, split: str) -> Iterator[tuple[str, int, int]]:
    """Yield (document id, start, length) of a split in the order of its tokens."""
    for row in read_jsonl(directory / f"{split}-documents.jsonl.zst"):
        yield row["id"], row["start"], row["length"]


def _map_shard(
    directory: Path, shard: dict[str, Any], dtype: np.dtype[Any], verify: bool
) -> np.ndarray:
    """Map one shard after checking its size and, if asked, its hash."""
    path = directory / shard["file"]
    mend = "restore it (textmill checkout) or prepare the corpus again"
    if not path.exists():
        raise FileNotFoundError(f"{path}: shard missing: {mend}")
    size, expected = path.stat().st_size, shard["tokens"] * dtype.itemsize
    if size != expected:
        raise ValueError(f"{path}: {size} bytes, index.json says {expected}: {mend}")
    if verify and (digest := sha256(path)) != shard["sha256"]:
        want = shard["sha256"]
        raise ValueError(f"{path}: sha256 {digest[:12]}, index.json says {want[:12]}: {mend}")
    return np.memmap(path, dtype=dtype, mode="r")
