"""Texts that are more or less alike, and which of them count as duplicates."""

import random
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from modules.corpus.dedup import DedupConfig, Duplicate, find_duplicates
from modules.corpus.document import Document, document_id, shard_path, write_documents
from modules.corpus.lsh import Part
from modules.corpus.sketches import sketch_shard, sketches_path
from modules.files import read_jsonl

DATA = Path(__file__).parents[3] / "data"
WORDS = [f"w{i}" for i in range(5000)]


def sentence(seed: int, n: int = 300) -> list[str]:
    return random.Random(seed).choices(WORDS, k=n)


def edited(words: list[str], share: float, seed: int) -> list[str]:
    """Change a share of the words, in one run (so that few n-grams are touched)."""
    n = round(len(words) * share)
    return words[: len(words) - n] + sentence(seed, n)


def document(name: str, words: list[str], **rest) -> Document:
    return Document(document_id(name), " ".join(words), url=name, **rest)


def true_jaccard(a: str, b: str, n: int = 5) -> float:
    """Plain sets of word tuples: no hashing, nothing shared with the code under test."""
    sets = []
    for text in (a, b):
        words = re.findall(r"\w+", text.lower())
        sets.append({tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def pages() -> list[Document]:
    if not DATA.exists():
        pytest.skip("the sample data is not here (make data)")
    rows = read_jsonl(DATA / "web" / "main_text.jsonl.zst")
    return [Document(document_id(r["url"]), r["main_text"], url=r["url"]) for r in rows]


def collection() -> list[Document]:
    """Families of texts with all degrees of likeness, and exact copies."""
    documents = []
    for family in range(12):
        base = sentence(100 + family)
        for i, share in enumerate((0, 0, 0.02, 0.1, 0.2, 0.35, 0.6)):
            words = edited(base, share, 1000 + 10 * family + i)
            documents.append(document(f"{family}/{i}", words, date=f"20{(i * 7) % 10:02}"))
    return documents


def parts_of(
    documents: list[Document],
    directory: Path,
    config: DedupConfig,
    size: int = 7,
    old: bool = False,
) -> list[Part]:
    """Write documents and their sketches into files of a few each."""
    parts = []
    for number, start in enumerate(range(0, len(documents), size)):
        path = shard_path(directory / ("old" if old else "new"), number)
        write_documents(path, documents[start : start + size])
        sketch_shard((path, sketches_path(path), config))
        parts.append(Part(path, sketches_path(path), old))
    return parts


def by_id(found: Iterable[tuple[int, Duplicate]]) -> dict[str, Duplicate]:
    rows = list(found)
    assert [number for number, _ in rows] == sorted(number for number, _ in rows)
    return {f"{number:016x}": duplicate for number, duplicate in rows}


def near(
    documents: list[Document],
    config: DedupConfig | None = None,
    old: Iterable[Document] = (),
    **rest,
) -> dict[str, Duplicate]:
    config = config or DedupConfig()
    with tempfile.TemporaryDirectory() as name:
        parts = parts_of(list(old), Path(name), config, old=True)
        parts += parts_of(documents, Path(name), config)
        return by_id(find_duplicates(parts, config, Path(name) / "work", **rest))
