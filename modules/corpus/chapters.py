"""What each step of a corpus did with one address, from the files that the step wrote."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from modules.corpus.clusters import survivor
from modules.corpus.document import Document
from modules.corpus.lookup import dropped_rows, find_document, find_rows
from modules.corpus.tally import Row
from modules.corpus.token_file import read_index

Outcome = Literal["kept", "dropped", "absent"]
AGAIN = "already_kept"  # a page of an older corpus was read again; the document there stays
MANY = 5  # rows told of one kind; the rest is only counted


@dataclass(frozen=True)
class Chapter:
    """What one step did."""

    step: str
    outcome: Outcome
    facts: list[str]


def told(lines: Sequence[str]) -> list[str]:
    """Return the first lines and how many more there are."""
    left = len(lines) - MANY
    return [*lines[:MANY], *([f"and {left:,} more"] if left > 0 else [])]


def links_chapter(directory: Path, url: str, spelled: str) -> Chapter:
    """Tell who posted the link and what became of each submission."""
    gone = [
        f"{row['reason']}: submission {row['id'] or 'without id'} in {row['file']}"
        for row in dropped_rows(directory, url, spelled)
        if row["url"] in (url, spelled)
    ]
    rows = find_rows(directory / "links.jsonl.zst", url)
    row = next((row for row in rows if row["url"] == url), None)
    if row is None:
        return Chapter("links", "dropped", told(gone)) if gone else absent("links", "in no dump")
    posts = row["submissions"]
    facts = [f"score {row['score']:,}, submissions: {', '.join(told(posts)) or 'without ids'}"]
    if row.get("created") is not None:
        first = datetime.fromtimestamp(row["created"], UTC)
        facts.append(f"first posted {first:%Y-%m-%d %H:%M} UTC")
    if row.get("subreddits"):
        facts.append(f"in {', '.join(told(row['subreddits']))}")
    return Chapter("links", "kept", [*facts, *told([f"not counted, {x}" for x in gone])])


def pages_chapter(directory: Path, url: str) -> tuple[Chapter, Row | None]:
    """Tell where the stored page is, or why there is none; return its row as well."""
    for row in find_rows(directory / "pages.jsonl.zst", url):
        others = row.get("redirected_from") or []
        if url in (row["url"], row["final_url"], *others):
            place = f"{row['warc']}, offset {row['offset']:,}"
            fetched = row.get("date") or "at an unknown time"
            facts = [f"{place}, status {row.get('status', 200)}, fetched {fetched}"]
            if others:
                facts.append(f"{', '.join(told(others))} led to {row['final_url']}")
            return Chapter("pages", "kept", facts), row
    for row in dropped_rows(directory, url):
        if url in (row["url"], row.get("final_url")):
            where = row.get("final_url", url)
            led = [f"redirected to {where}"] if where != url else []
            return Chapter("pages", "dropped", [_because(row), *led]), None
    return absent("pages", "no page was asked for"), None


def text_chapter(directory: Path, id: str) -> Chapter:
    """Tell whether text came out of the page."""
    for row in dropped_rows(directory, id):
        if row["id"] == id:
            return Chapter("text", "dropped", [_because(row)])
    return absent("text", "no such page was given to extraction")


def documents_chapter(
    directory: Path, id: str, filters: Sequence[str]
) -> tuple[Chapter, Document | None]:
    """Tell each filter's verdict and the duplicates; return the document if it stays."""
    rows = list(dropped_rows(directory, id))
    own = next((row for row in rows if row["id"] == id and row["reason"] != AGAIN), None)
    if own:
        return Chapter("documents", "dropped", _verdict(directory, own, filters)), None
    document = find_document(directory, id)
    if document is None:
        return absent("documents", "not among the documents"), None
    facts = [f"{len(document.text.split()):,} words, {len(document.text.encode()):,} bytes"]
    if document.lang:
        sure = document.meta.get("lang_probability", 1)
        facts.append(f"language {document.lang} ({sure:.2f})")
    facts.append(f"passed {', '.join(filters)}")
    copies = [(row, found) for row in rows if (found := survivor(row)) and found.id == id]
    facts += told([f"stays for {row['url']} (Jaccard {found.jaccard})" for row, found in copies])
    return Chapter("documents", "kept", facts), document


def _verdict(directory: Path, row: Row, filters: Sequence[str]) -> list[str]:
    """Return what dropped a document, after what it passed."""
    found = survivor(row)
    if found is None:
        passed = filters[: filters.index(row["reason"])] if row["reason"] in filters else ()
        return [_because(row), *([f"passed {', '.join(passed)}"] if passed else [])]
    stays = find_document(directory, found.id)
    name = (stays.url or stays.source) if stays else "a document of an older corpus"
    return [
        f"{row['reason']} of {name} ({found.id}), Jaccard {found.jaccard}",
        *([f"passed {', '.join(filters)}"] if filters else []),
    ]


def tokens_chapter(directory: Path, id: str) -> Chapter:
    """Tell in which split and shard the document's tokens are, and at which position."""
    for split, entry in sorted(read_index(directory)["splits"].items()):
        one = [{"file": f"{split}-documents.jsonl.zst"}]  # as version 0.1 wrote it, without a list
        for spans in entry.get("spans", one):
            for row in find_rows(directory / spans["file"], id):
                start, length = row["start"], row["length"]
                facts = [f"{split}, tokens {start:,} to {start + length - 1:,} ({length:,})"]
                places = _places(entry["shards"], start, length)
                return Chapter("tokens", "kept", facts + places)
    return absent("tokens", "not in the token shards")


def _places(shards: Sequence[Row], start: int, length: int) -> list[str]:
    """Return the shards that hold a range of tokens, and where in them."""
    found, begin = [], 0
    for shard in shards:
        low, high = max(start, begin), min(start + length, begin + shard["tokens"])
        if low < high:
            found.append(f"{shard['file']}, positions {low - begin:,} to {high - begin - 1:,}")
        begin += shard["tokens"]
    return told(found)


def absent(step: str, why: str) -> Chapter:
    """Return the chapter of a step that has not seen the address."""
    return Chapter(step, "absent", [why])


def _because(row: Row) -> str:
    """Return a reason with its detail."""
    return row["reason"] + (f" ({row['detail']})" if row.get("detail") else "")
