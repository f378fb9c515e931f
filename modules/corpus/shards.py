"""Documents to token files: one stream of ids per split, cut into shards.

The layout is nanoGPT's (data/openwebtext/prepare.py): each document's ids with end-of-text
appended, one after the other, uint16 where the vocabulary fits. index.json says what is there:
{dtype, vocab_size, eot, tokenizer_sha256, fractions, document_shards: [{name, sha256}], splits:
{NAME: {tokens, documents, bytes, shards: [{file, tokens, sha256}], spans: [{file, sha256}]}}}.
The span files have a row {id, start, length, source} per document, counted in tokens of its split,
end-of-text included. A corpus that grows gets further files; the old ones never change.

Each shard of documents is encoded on its own into a work file, in any process; the work files are
then joined in order, so that the bytes depend on nothing but documents, tokenizer and config.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from modules import tokenizer as bpe
from modules.corpus.document import read_documents, shard_paths
from modules.corpus.encode import WORK, Job, encode_shard, load_once, stamp, token_dtype
from modules.corpus.split_writer import SplitWriter
from modules.corpus.splits import SPLITS, TokensConfig, fractions, split_of_document
from modules.corpus.token_file import TokenFile, read_index
from modules.files import Progress, carry_over, sha256, silent, write_json
from modules.parallel import Spread, one_by_one

SAME = ("tokenizer_sha256", "fractions")  # of a base, or its tokens and ours are no one stream


def write_tokens(
    documents: Path,
    tokenizer: Path,
    out: Path,
    config: TokensConfig,
    *,
    base: Path | None = None,
    spread: Spread = one_by_one,
    progress: Progress = silent,
) -> dict[str, int]:
    """Encode a directory of documents into token shards; return counts per split.

    Args:
        base: tokens of some of these document shards: its files are carried over as they are, and
            only the other document shards are encoded, behind them.

    Raises:
        ValueError: a document shard is damaged or names an unknown split, no document is left for
            training, or base was made of other documents, another tokenizer or other fractions.
    """
    encoder = load_once(tokenizer, stamp(tokenizer))
    paths = shard_paths(documents)
    digests = dict(zip(paths, spread(sha256, paths), strict=True))
    index = _new_index(encoder, config)
    if base is not None:
        index = _checked_base(base, index, {path.name: digests[path] for path in paths})
        _carry_base_over(base, out, index)
    old = {shard["name"] for shard in index["document_shards"]}
    new = [path for path in paths if path.name not in old]
    jobs = [Job(p, digests[p], tokenizer, encoder.sha256, config, out) for p in new]
    (out / "index.json").unlink(missing_ok=True)  # of a try before this one
    _join(spread(encode_shard, jobs), out, index, config, len(jobs), progress)
    if not index["splits"]["train"]["documents"]:
        raise ValueError(f"{documents}: no document is left for training, lower the fractions")
    index["document_shards"] += [{"name": p.name, "sha256": digests[p]} for p in new]
    _remove_leftovers(out, index)
    write_json(out / "index.json", index)  # last: a directory without it is not finished
    shutil.rmtree(out / WORK, ignore_errors=True)
    return _counts(index)


def training_texts(documents: Path, config: TokensConfig) -> Iterator[str]:
    """Yield the texts that are for training: what a tokenizer may learn from."""
    for document in read_documents(documents):
        if split_of_document(document, config) == "train":
            yield document.text


def _join(
    works: Iterator[Path],
    out: Path,
    index: dict[str, Any],
    config: TokensConfig,
    total: int,
    progress: Progress,
) -> None:
    """Append work files, in their order, to the shards of each split."""
    dtype, entries = np.dtype(index["dtype"]).newbyteorder("<"), index["splits"]
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(
                SplitWriter(split, out, entries[split], config.tokens_per_shard)
            )
            for split in SPLITS
        }
        for done, work in enumerate(works, 1):
            with work.open("rb") as file:
                for split, part in json.loads(file.readline()).items():
                    ids = np.fromfile(file, dtype, sum(part["lengths"]))
                    documents = (part["names"], part["sources"], part["lengths"])
                    writers[split].add(ids, *documents, part["bytes"])
            tokens = sum(entry["tokens"] for entry in entries.values())
            progress(done, total, f"{tokens} tokens")


def _new_index(encoder: bpe.Tokenizer, config: TokensConfig) -> dict[str, Any]:
    """Return the index of no documents."""
    empty = {"tokens": 0, "documents": 0, "bytes": 0}  # bytes: UTF-8, for bits per byte
    return {
        "dtype": token_dtype(encoder.n_vocab).name,
        "vocab_size": encoder.n_vocab,
        "eot": encoder.eot,
        "tokenizer_sha256": encoder.sha256,
        "fractions": fractions(config),
        "document_shards": [],
        "splits": {split: empty | {"shards": [], "spans": []} for split in SPLITS},
    }


def _checked_base(base: Path, new: dict[str, Any], digests: dict[str, str]) -> dict[str, Any]:
    """Return the index of a base that these documents go on from."""
    index = read_index(base)
    anew = "encode everything anew, without a base"
    for key in SAME:
        if index.get(key) != new[key]:
            raise ValueError(f"{base}: {key} is {index.get(key)}, here it is {new[key]}: {anew}")
    for shard in index["document_shards"]:
        name, digest = shard["name"], digests.get(shard["name"])
        if digest != shard["sha256"]:
            found = f"has sha256 {digest[:12]}" if digest else "is missing"
            raise ValueError(
                f"{base}: it was made of {name} with sha256 {shard['sha256'][:12]}, which here "
                f"{found}: give the documents that it grew from, or {anew}"
            )
    for split in SPLITS:
        TokenFile(base, split)  # all shards are there, of the right size
    return index


def _carry_base_over(base: Path, out: Path, index: dict[str, Any]) -> None:
    """Give the files of a base their place in the new directory."""
    out.mkdir(parents=True, exist_ok=True)
    for name in _files(index):
        carry_over(base / name, out / name)


def _files(index: dict[str, Any]) -> set[str]:
    """Return the names of all files that an index lists."""
    entries = index["splits"].values()
    return {part["file"] for entry in entries for part in [*entry["shards"], *entry["spans"]]}


def _remove_leftovers(out: Path, index: dict[str, Any]) -> None:
    """Remove what killed tries with other settings left."""
    listed = _files(index)
    for split in SPLITS:
        for path in [*out.glob(f"{split}-*"), *out.glob(f".{split}-*.tmp")]:
            if path.name not in listed:
                path.unlink()


def _counts(index: dict[str, Any]) -> dict[str, int]:
    """Return the counts of each split."""
    return {
        f"{split}.{key}": entry[key]
        for split, entry in index["splits"].items()
        for key in ("tokens", "documents", "bytes")
    }
