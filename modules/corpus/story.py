"""The story of one address: what each step of a corpus did with it, from dump to tokens.

The steps' own chapters are in chapters.py, how files are searched is in lookup.py.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

from modules.corpus.addresses import canonical_url
from modules.corpus.chapters import (
    MANY,
    Chapter,
    absent,
    documents_chapter,
    links_chapter,
    pages_chapter,
    text_chapter,
    tokens_chapter,
)
from modules.corpus.document import Document, document_id
from modules.corpus.lookup import dropped_rows, find_document, find_rows
from modules.corpus.tally import Row

Directories = Mapping[str, Path]
"""links, pages, text, documents and tokens -> directory; one such set for each night"""

Ledger = Callable[[str], Sequence[str]]
"""canonical address -> what the ledger says of it, a line each; empty if it has no such row"""

ID = re.compile("[0-9a-f]{16}")


@dataclass
class Story:
    """All that is known of an address."""

    address: str  # canonical, or empty for ready-made text
    id: str
    chapters: list[Chapter] = field(default_factory=list)

    @property
    def known(self) -> bool:
        """Whether any step has seen it."""
        return any(chapter.outcome != "absent" for chapter in self.chapters)

    @property
    def end(self) -> str:
        """In one line, how it ended: with the last step that did something with it."""
        did = [x for x in self.chapters if x.outcome != "absent" and x.step != "ledger"]
        if not did:
            return "no step has seen it"
        last = did[-1]
        if last.outcome == "dropped":
            return f"its story ends at {last.step}: {last.facts[0]}"
        done = last.step == "tokens"
        return "it is in the corpus" if done else f"nothing is known of it after {last.step}"


def tell(
    given: str,
    nights: Sequence[Directories],
    *,
    filters: Sequence[str] = (),
    ledger: Ledger | None = None,
) -> Story:
    """Tell the story of an address, or of a document's id.

    Args:
        nights: the directories of the corpus, and of the older ones that it continues.
        filters: names of the filters in the order in which they were applied.
        ledger: asked for what it knows of the address.

    Raises:
        ValueError: it is neither an address nor an id, or no document has that id.
    """
    if ID.fullmatch(given):
        return _tell_id(given, nights, filters, ledger)
    try:
        url = canonical_url(given, escaped=True)
    except ValueError as reason:
        raise ValueError(f"{given[:200]!r} is no address of a page ({reason})") from None
    return _tell_url(url, given, nights, filters, ledger)


def _tell_url(
    url: str,
    given: str,
    nights: Sequence[Directories],
    filters: Sequence[str],
    ledger: Ledger | None,
) -> Story:
    night, links, pages, row = _seen(url, given, nights)
    story = Story(url, document_id(row["final_url"] if row else url), [links])
    if links.outcome != "kept" and row:  # people posted what leads here
        story.chapters += [_leading(night["links"], link) for link in _others(row)[:MANY]]
    if ledger is not None:
        facts = list(ledger(url))
        row_of = Chapter("ledger", "kept", facts) if facts else absent("ledger", "not in it")
        story.chapters.append(row_of)
    story.chapters.append(pages)
    if pages.outcome == "kept":
        story.chapters += _text_to_tokens(story.id, nights, night["text"], filters)
    return story


def _seen(
    url: str, given: str, nights: Sequence[Directories]
) -> tuple[Directories, Chapter, Chapter, Row | None]:
    """Return the night that has the page of an address, else the one that came furthest with it."""
    found = []
    for night in nights:
        links = links_chapter(night["links"], url, given)
        pages, row = pages_chapter(night["pages"], url)
        found.append((night, links, pages, row))
        if row:
            return found[-1]
    order = ("absent", "dropped", "kept")
    return max(found, key=lambda x: (order.index(x[2].outcome), order.index(x[1].outcome)))


def _leading(directory: Path, link: str) -> Chapter:
    """Tell who posted a link that leads to the address."""
    found = links_chapter(directory, link, link)
    return Chapter("links", found.outcome, [f"{link} leads here", *found.facts])


def _others(row: Row) -> list[str]:
    """Return the links that led to a page by redirects."""
    return row.get("redirected_from") or []


def _text_to_tokens(
    id: str, nights: Sequence[Directories], text: Path, filters: Sequence[str]
) -> list[Chapter]:
    """Tell what became of a page's text."""
    extracted = text_chapter(text, id)
    if extracted.outcome == "dropped":
        return [extracted]
    for night in nights:
        verdict, document = documents_chapter(night["documents"], id, filters)
        if verdict.outcome != "absent":
            break
    else:
        return [extracted, verdict]
    extracted = Chapter("text", "kept", _extracted(document))
    if document is None:
        return [extracted, verdict]
    return [extracted, verdict, tokens_chapter(nights[0]["tokens"], id)]


def _extracted(document: Document | None) -> list[str]:
    """Return what extraction noted of a page."""
    if document is None:
        return ["extracted"]
    charset, replaced = document.meta.get("charset"), document.meta.get("n_replaced", 0)
    facts = [f"title {document.title!r}"] if document.title else ["no title"]
    if document.date:
        facts.append(f"dated {document.date}")
    return [*facts, *([f"charset {charset}, {replaced:,} characters replaced"] if charset else [])]


def _tell_id(
    id: str, nights: Sequence[Directories], filters: Sequence[str], ledger: Ledger | None
) -> Story:
    """Find the address of a document's id and tell its story; ready-made text has none."""
    directories = [night[step] for night in nights for step in ("documents", "text")]
    gone = (row["url"] for x in directories for row in dropped_rows(x, id) if row["id"] == id)
    document = find_document(nights[0]["documents"], id)
    url = document.url if document else next(gone, None)
    if url:
        return _tell_url(url, url, nights, filters, ledger)
    if url is None:
        raise ValueError(f"no document of this corpus has the id {id}")
    source = f"ready-made text of {document.source}" if document else "ready-made text"
    chapters = [Chapter("text", "kept", [source])]
    verdict, document = documents_chapter(nights[0]["documents"], id, filters)
    tokens = [tokens_chapter(nights[0]["tokens"], id)] if document else []
    return Story("", id, [*chapters, verdict, *tokens])


def nearest(url: str, nights: Sequence[Directories]) -> tuple[int, list[str]]:
    """Return how many links of the same host were taken, and the addresses most like this one."""
    host = urlsplit(url).netloc
    rows = (
        row["url"]
        for night in nights
        for row in find_rows(night["links"] / "links.jsonl.zst", f"//{host}/")
        if urlsplit(row["url"]).netloc == host
    )
    some = list(islice(rows, 2000))  # enough to guess a misspelling; comparing is slow
    return len(some) + sum(1 for _ in rows), get_close_matches(url, some, n=3)
