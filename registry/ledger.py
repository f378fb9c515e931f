"""The crawl ledger: every link once, with its state, its tries and where its answer lies.

A night is four calls: `add_links` (what the dumps recommend), `open_batch` (what is new or due),
`batch_links` (to be fetched), `close_batch` (what came of it). Each may be killed and called
again. Changes go in chunks, sorted by key: few large transactions, each with its counts.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import insert, select
from sqlalchemy.orm import Session, aliased

from registry import db
from registry.batches import Batch, batch_links, close_batch, open_batch
from registry.ledger_tables import Link, LinkBatch, LinkCount, LinkName, LinkState
from registry.links import LINK, Row, chunks, count_links, in_order, key_of, update_links
from registry.outcomes import Retry, seconds

__all__ = [
    "Batch",
    "Count",
    "Retry",
    "Story",
    "add_links",
    "batch_links",
    "close_batch",
    "open_batch",
    "story",
    "summary",
]


@dataclass(frozen=True)
class Story:
    """All that the ledger knows of one address."""

    url: str
    state: str
    score: int
    attempts: int
    first_seen: datetime
    due: datetime | None
    time: datetime | None  # of the last outcome
    reason: str  # of the last outcome, if it failed
    warc: str | None
    offset: int | None
    batch: str | None  # the name of the last batch
    pages: str | None  # fingerprint of what was made of that batch


class Count(NamedTuple):
    """How many links stand where."""

    state: str
    reason: str
    n: int


def add_links(address: str, rows: Iterable[Mapping[str, Any]], now: datetime) -> Counter[str]:
    """Add links (url, score); those known keep their state, and their score rises.

    Returns:
        Counts: new, known, risen (known, with a higher score now), collisions (another address
        has the same key: such a link is left out).
    """
    counts = Counter({"new": 0, "known": 0, "risen": 0, "collisions": 0})
    links = ((key_of(row["url"]), row["url"], row["score"]) for row in rows)
    for chunk in in_order(links):
        counts.update(db.write(address, partial(_add, chunk=chunk, now=seconds(now))))
    return counts


def _add(session: Session, chunk: list[Row], now: int) -> Counter[str]:
    """Add one chunk, in the order of keys."""
    wanted = {(key, url): score for key, url, score in chunk}  # the last has the highest score
    known: dict[int, tuple[str, int]] = {}
    for keys in chunks(key for key, _ in wanted):
        query = select(Link.key, Link.url, Link.score).where(Link.key.in_(keys))
        known |= {key: (url, score) for key, url, score in session.execute(query)}
    new: list[dict[str, Any]] = []
    risen: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    for (key, url), score in wanted.items():
        if key not in known:
            new.append({"key": key, "url": url, "score": score} | _fresh(now))
            known[key] = url, score
        elif known[key][0] != url:
            counts["collisions"] += 1
        else:
            counts["known"] += 1
            if score > known[key][1]:
                risen.append({"its_key": key, "score": score})
    if new:
        session.execute(insert(LINK), new)
        count_links(session, Counter({(LinkState.TODO.value, ""): len(new)}))
    update_links(session, risen, "score")
    return counts + Counter({"new": len(new), "risen": len(risen)})


def _fresh(now: int) -> dict[str, Any]:
    """Return the other columns of a new link."""
    return {"state": LinkState.TODO.value, "attempts": 0, "first_seen": now, "due": now}


def story(address: str, url: str) -> Story | None:
    """Return all that the ledger knows of a canonical address; None if it never saw it."""
    reason, warc = aliased(LinkName), aliased(LinkName)
    query = (
        select(Link, reason.name, warc.name, LinkBatch.name, LinkBatch.pages)
        .outerjoin(reason, reason.id == Link.reason_id)
        .outerjoin(warc, warc.id == Link.warc_id)
        .outerjoin(LinkBatch, LinkBatch.id == Link.batch_id)
        .where(Link.key == key_of(url), Link.url == url)
    )
    with db.reading(address) as session:
        found = session.execute(query).one_or_none()
    if found is None:
        return None
    link, why, file, batch, pages = found
    return Story(
        url=link.url,
        state=LinkState(link.state).name.lower(),
        score=link.score,
        attempts=link.attempts,
        first_seen=_moment(link.first_seen),
        due=None if link.due is None else _moment(link.due),
        time=None if link.time is None else _moment(link.time),
        reason=why or "",
        warc=file,
        offset=link.offset,
        batch=batch,
        pages=pages,
    )


def summary(address: str) -> list[Count]:
    """Return how many links stand where, most first; at once, whatever their number."""
    with db.reading(address) as session:
        rows = session.scalars(select(LinkCount).where(LinkCount.n != 0)).all()
    counts = [Count(LinkState(row.state).name.lower(), row.reason, row.n) for row in rows]
    return sorted(counts, key=lambda count: (-count.n, count))


def _moment(value: int) -> datetime:
    """Return a moment in UTC from seconds since 1970."""
    return datetime.fromtimestamp(value, UTC)
