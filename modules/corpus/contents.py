"""What the documents of a corpus are: lengths, domains, languages, charsets, and some of them."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field

from modules.config import Config
from modules.corpus.addresses import EXTRACT
from modules.corpus.document import Document, read_documents
from modules.corpus.excerpt import excerpt, visible
from modules.corpus.tally import Row, Sample, TopCounts, draw
from modules.files import read_lines

ID = re.compile(rb'"id": ?"([0-9a-f]{16})"')
READY_MADE = "ready-made: "  # before the source of a text set, where a page has its domain


class LookConfig(Config):
    """How much of a corpus is shown."""

    kept: int = Field(default=8, ge=0)
    """Documents shown of those that stayed."""
    dropped: int = Field(default=3, ge=0)
    """Records shown for each reason to drop."""
    lines: int = Field(default=8, ge=1)
    """Lines of text shown of each."""
    width: int = Field(default=160, ge=20)
    """Characters shown of each line."""
    domains: int = Field(default=1000, ge=1)  # as many as GPT-2's published list of domains
    """Domains listed, those with most documents first."""
    domains_counted: int = Field(default=1_000_000, ge=2)
    """Domains counted exactly; of more, the rarest are forgotten (about 150 bytes each)."""
    clusters: int = Field(default=10, ge=0)
    """Groups of duplicates listed, the largest first."""
    members: int = Field(default=5, ge=0)
    """Addresses shown of each."""
    seed: int = 0
    """Another seed shows other samples."""


@dataclass
class Contents:
    """Totals over documents; `wanted` are those that were asked for by id."""

    domains: TopCounts
    sample: Sample
    documents: int = 0
    words: int = 0
    bytes: int = 0
    lengths: Counter[int] = field(default_factory=Counter)  # words, rounded down to 2^n
    languages: Counter[str] = field(default_factory=Counter)
    charsets: Counter[str] = field(default_factory=Counter)
    replaced: Counter[str] = field(default_factory=Counter)
    masked: Counter[str] = field(default_factory=Counter)  # personal data, by kind
    wanted: dict[str, Row] = field(default_factory=dict)

    def merge(self, other: "Contents") -> None:
        """Take over the contents of another shard."""
        self.domains.merge(other.domains)
        self.sample.merge(other.sample)
        self.documents += other.documents
        self.words += other.words
        self.bytes += other.bytes
        for mine, its in (
            (self.lengths, other.lengths),
            (self.languages, other.languages),
            (self.charsets, other.charsets),
            (self.replaced, other.replaced),
            (self.masked, other.masked),
        ):
            mine.update(its)  # type: ignore[arg-type]
        self.wanted |= other.wanted

    def add(self, document: Document, config: LookConfig) -> None:
        """Count one document."""
        words, size = len(document.text.split()), len(document.text.encode("utf-8", "replace"))
        self.documents += 1
        self.words += words
        self.bytes += size
        self.lengths[1 << (words.bit_length() - 1) if words else 0] += 1
        self.languages[document.lang] += 1
        self.domains.add(domain_of(document), 1, size)
        self.sample.offer(draw(document.id, config.seed), lambda: shown(document, config))
        if charset := document.meta.get("charset"):
            self.charsets[charset] += 1
        if replaced := document.meta.get("n_replaced"):
            self.replaced.update(documents=1, characters=replaced)
        self.masked.update(document.meta.get("masked", {}))


def no_contents(config: LookConfig) -> Contents:
    """Return totals over nothing."""
    return Contents(TopCounts(config.domains_counted), Sample(config.kept))


def read_contents(path: Path, config: LookConfig, wanted: frozenset[str]) -> Contents:
    """Look through one shard of documents."""
    found = no_contents(config)
    for document in read_documents(path):
        found.add(document, config)
        if document.id in wanted:
            found.wanted[document.id] = shown(document, config)
    return found


def find_texts(path: Path, config: LookConfig, wanted: frozenset[str]) -> dict[str, Row]:
    """Return what a shard holds of some ids, as it is shown; other lines are not decoded."""
    from json import loads

    found = {}
    for line in read_lines(path):
        if any(match.decode() in wanted for match in ID.findall(line)):
            document = Document(**loads(line))
            if document.id in wanted:
                found[document.id] = shown(document, config)
    return found


def shown(document: Document, config: LookConfig) -> Row:
    """Return what is shown of a document."""
    return {
        "id": document.id,
        "url": visible(document.url[: 2 * config.width]),
        "source": visible(document.source[: config.width]),
        "title": visible(document.title[: config.width]),
        "words": len(document.text.split()),
        "text": excerpt(document.text, config.lines, config.width),
    }


def domain_of(document: Document) -> str:
    """Return the registered domain of a page, or the name of a ready-made text set."""
    if not document.url:
        return f"{READY_MADE}{visible(document.source[:100])}"
    return registered_domain(urlsplit(document.url).hostname or "")


@lru_cache(maxsize=2**16)
def registered_domain(host: str) -> str:
    """Return what somebody can register: bbc.co.uk of www.bbc.co.uk."""
    return EXTRACT(host).top_domain_under_public_suffix or host


def length_bins(lengths: Mapping[int, int]) -> list[dict[str, int]]:
    """Return a histogram over all powers of two between the shortest and the longest text."""
    if not lengths:
        return []
    low, high = (n.bit_length() for n in (min(lengths), max(lengths)))
    starts = [1 << (n - 1) if n else 0 for n in range(low, high + 1)]
    return [
        {"from": start, "to": max(2 * start - 1, 0), "documents": lengths.get(start, 0)}
        for start in starts
    ]


def summary(contents: Contents, config: LookConfig) -> dict[str, Any]:
    """Return the totals as a JSON object."""
    return {
        "documents": contents.documents,
        "words": contents.words,
        "bytes": contents.bytes,
        "lengths": length_bins(contents.lengths),
        "languages": dict(contents.languages),
        "charsets": dict(contents.charsets),
        "replaced": dict(contents.replaced),
        "masked": dict(contents.masked),
        "domains_error": contents.domains.error,
        "domains_seen": len(contents.domains.counts),
        "domains": [
            {"domain": name, "documents": documents, "bytes": size}
            for name, documents, size in contents.domains.top(config.domains)
        ],
    }
