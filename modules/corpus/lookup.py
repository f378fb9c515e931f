"""Looking one record up in files of millions: by bytes, without decoding the other lines."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import zstandard

from modules.corpus.document import Document, shard_paths
from modules.corpus.tally import Row
from modules.files import read_blocks

LAST = "~"  # sorts after every id


def find_rows(path: Path, *values: str) -> Iterator[Row]:
    """Yield the rows of a file whose text holds one of the values as it stands."""
    spelled = (json.dumps(value, ensure_ascii=False)[1:-1] for value in values)
    needles = [text.encode("utf-8", "replace") for text in spelled]
    for lines in _whole_lines(path):
        if any(needle in lines for needle in needles):  # hardly ever: then look line by line
            for line in lines.split(b"\n"):
                if any(needle in line for needle in needles):
                    yield json.loads(line)


def _whole_lines(path: Path) -> Iterator[bytes]:
    """Yield a file in pieces that end where a line ends."""
    rest: list[bytes] = []
    for block in read_blocks(path):
        head, newline, tail = block.rpartition(b"\n")
        if newline:
            yield b"".join([*rest, head])
            rest = []
        rest.append(tail)
    yield b"".join(rest)


def dropped_rows(directory: Path, *values: str) -> Iterator[Row]:
    """Yield what a step dropped that holds one of the values."""
    for path in sorted(directory.glob("dropped*.jsonl.zst")):
        yield from find_rows(path, *values)


def find_document(directory: Path, id: str) -> Document | None:
    """Return a document that stayed.

    Shards hold documents in the order of their ids, so the one that begins last before the id is
    read first (one in each run of shards, if some were carried over from an older corpus).
    """
    shards = shard_paths(directory)
    firsts = [first_id(shard) for shard in shards]
    likely = [
        shard
        for shard, first, after in zip(shards, firsts, [*firsts[1:], LAST], strict=True)
        if first <= id and not first <= after <= id
    ]
    for shard in [*likely, *(shard for shard in shards if shard not in likely)]:
        for row in find_rows(shard, id):
            if row["id"] == id:
                return Document(**row)
    return None


def first_id(shard: Path) -> str:
    """Return the id of a shard's first document, reading no more than that."""
    with zstandard.open(shard, "rb") as file:
        line = io.BufferedReader(file).readline()
    return str(json.loads(line)["id"]) if line.strip() else LAST
