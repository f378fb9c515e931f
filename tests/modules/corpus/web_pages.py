"""Pages to clean, a few words or many, and what a cleaning left."""

import hashlib
import random
from pathlib import Path

from modules.corpus.document import Document, document_id
from modules.corpus.recipe import CleanConfig, FilterConfig

ROOT = Path(__file__).parents[3]
DATA = ROOT / "data"
TEXT = (
    "This is a page about the {0} of the sea and what it has to do with the {0} that we see. "
    "There are many of them, and each {0} has a story to be told to those who listen to it. "
)
GERMAN = "Das ist eine Seite über das Meer und was es mit uns allen zu tun hat, wie man sieht. " * 3
CONFIG = CleanConfig(filters=FilterConfig(min_words=20))


def page(url: str, text: str, **rest) -> Document:
    return Document(document_id(url), text, url=url, **rest)


def many(count: int, first: int = 0) -> list[Document]:
    """Pages of all kinds: copies, near copies, pages that go for another reason."""
    documents = []
    for i in range(first, first + count):
        words = random.Random(i if i % 5 else i // 10).choices(TEXT.split(), k=60)
        text = " ".join(words) + (f" The end, {i}." if i % 2 else "")
        text = GERMAN + str(i) if i % 11 == 0 else text
        documents.append(page(f"https://a.example/{i}", text, date=f"2018-01-{i % 28 + 1:02}"))
    return documents


def digests(directory: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(directory.iterdir())}
