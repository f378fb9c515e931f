"""The one type that corpus steps hand on, and shards of it on disk."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.files import read_jsonl, write_jsonl


@dataclass(frozen=True)
class Document:
    """A text and where it came from; `meta` holds what few steps need (split, charset, ...)."""

    id: str
    text: str
    url: str = ""
    title: str = ""
    date: str = ""  # ISO 8601, as the page or dump gives it; empty if unknown
    source: str = ""  # host of a page, or the name of a ready-made text set
    lang: str = ""  # ISO 639-1, empty until a step has looked
    meta: dict[str, Any] = field(default_factory=dict)


def document_id(key: str) -> str:
    """Return the stable id of a document with this address or source id (16 hex digits)."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def shard_path(directory: Path, number: int, prefix: str = "documents") -> Path:
    """Return the name of the n-th shard below a directory."""
    return directory / f"{prefix}-{number:05d}.jsonl.zst"


def shard_paths(directory: Path, prefix: str = "documents") -> list[Path]:
    """Return the shards of a directory in order.

    Raises:
        FileNotFoundError: there is none.
    """
    found = sorted(directory.glob(f"{prefix}-[0-9]*.jsonl.zst"))
    if not found:
        raise FileNotFoundError(f"{directory}: no {prefix}-NNNNN.jsonl.zst in it")
    return found


def write_documents(path: Path, documents: Iterable[Document]) -> int:
    """Write one shard atomically; return how many documents it holds."""
    return write_jsonl(path, map(vars, documents))


def read_documents(path: Path) -> Iterator[Document]:
    """Yield the documents of one shard, or of all shards of a directory in order."""
    for shard in shard_paths(path) if path.is_dir() else [path]:
        for row in read_jsonl(shard):
            yield Document(**row)
