"""Batches of links: claimed together, fetched, closed with what came of them."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, literal_column, select, update
from sqlalchemy.orm import Session

from registry import db
from registry.ledger_tables import Link, LinkBatch, LinkName, LinkState
from registry.links import CHUNK, LINK, Changes, chunks, count_links, key_of, update_links
from registry.outcomes import OUTCOME, Retry, outcome_row, seconds


@dataclass(frozen=True)
class Batch:
    """Links claimed together."""

    id: int
    name: str
    size: int
    digest: str  # input fingerprint of what is made of it; no two batches share it
    opened: datetime
    resumed: bool  # an earlier call claimed it


def open_batch(address: str, name: str, now: datetime, limit: int | None = None) -> Batch | None:
    """Return the open batch of a name, else claim what is new or due; None if nothing is.

    The longest due come first, hosts mixed.
    """

    def work(session: Session) -> Batch | None:
        return _find(session, name) or _claim(session, name, now, limit)

    return db.write(address, work)


def _find(session: Session, name: str) -> Batch | None:
    """Return the open batch of a name."""
    query = select(LinkBatch).where(LinkBatch.name == name, LinkBatch.closed.is_(None))
    found = session.scalars(query).one_or_none()
    return None if found is None else _batch(found, resumed=True)


def _batch(row: LinkBatch, *, resumed: bool) -> Batch:
    """Return what callers see of a batch."""
    return Batch(row.id, row.name, row.size, row.digest, row.opened, resumed)


def _claim(session: Session, name: str, now: datetime, limit: int | None) -> Batch | None:
    """Claim links for a new batch; the row of the batch comes first, so that racers meet there."""
    row = LinkBatch(name=name, size=0, digest="", opened=now)
    session.add(row)
    session.flush()
    digest = hashlib.sha256(f"{row.id} {name} {now.isoformat()}".encode())
    while limit is None or row.size < limit:
        n = CHUNK if limit is None else min(CHUNK, limit - row.size)
        keys = _claim_chunk(session, row.id, seconds(now), n)
        digest.update(b"".join(key.to_bytes(8) for key in keys))
        row.size += len(keys)
        if len(keys) < n:
            break
    if not row.size:
        session.delete(row)
        return None
    row.digest = digest.hexdigest()
    return _batch(row, resumed=False)


def _claim_chunk(session: Session, batch_id: int, now: int, n: int) -> list[int]:
    """Move the first links that are due into a batch; return their keys."""
    query = (
        select(Link.key, Link.state, LinkName.name)
        .outerjoin(LinkName, LinkName.id == Link.reason_id)
        .where(Link.due <= now)
        .order_by(Link.due, Link.key)
        .limit(n)
    )
    found = session.execute(query).all()
    keys = [key for key, _, _ in found]
    if keys:
        claimed = {"state": LinkState.CLAIMED.value, "batch_id": batch_id, "due": None}
        session.connection().execute(update(LINK).where(LINK.c.key.in_(keys)).values(claimed))
        changes = Counter({(LinkState.CLAIMED.value, ""): len(keys)})
        changes.subtract((state, _counted(state, reason)) for _, state, reason in found)
        count_links(session, changes)
    return keys


def _counted(state: int, reason: str | None) -> str:
    """Return the reason that a link is counted under: only while it is one of failure."""
    return reason or "" if state in (LinkState.RETRY, LinkState.FAILED) else ""


def batch_links(address: str, batch_id: int) -> Iterator[dict[str, Any]]:
    """Yield the links of a batch that have no outcome yet, in the order of keys."""
    last = -1
    while True:
        query = (
            select(Link.key, Link.url, Link.score, Link.attempts)
            .where(*_claimed_by(batch_id), Link.key > last)
            .order_by(Link.key)
            .limit(CHUNK)
        )
        with db.reading(address) as session:
            found = session.execute(query).all()
        for key, url, score, attempts in found:
            last = key
            yield {"url": url, "score": score, "attempts": attempts}
        if len(found) < CHUNK:
            return


def _claimed_by(batch_id: int) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Return what is true of the links that a batch still holds."""
    # a number in the text, not a parameter: else SQLite would not see that the partial index fits
    return Link.batch_id == batch_id, Link.state == literal_column(str(LinkState.CLAIMED.value))


def close_batch(
    address: str,
    batch_id: int,
    outcomes: Iterable[Mapping[str, Any]],
    now: datetime,
    *,
    pages: str | None = None,
    retry: Retry = Retry(),  # noqa: B008 (frozen)
) -> Counter[str]:
    """Apply outcomes, give the links without one back, and close a batch; a closed one stays.

    Args:
        address: The database.
        batch_id: The batch.
        outcomes: url; reason ("" or none: it is stored); warc and offset of what is stored;
            transient, where the reason does not tell whether to try again.
        now: The moment of the outcomes.
        pages: Fingerprint of the artifact that was made of the batch.
        retry: When to try again.

    Returns:
        Counts: done, retry, failed, todo (given back), unknown (not of this batch).

    Raises:
        ValueError: there is no such batch.
    """
    counts = Counter({"done": 0, "retry": 0, "failed": 0, "todo": 0, "unknown": 0})
    if _is_closed(address, batch_id):
        return counts
    for chunk in chunks(outcomes):
        work = partial(_apply, batch_id=batch_id, outcomes=chunk, now=now, retry=retry)
        counts.update(db.write(address, work))
    while given_back := db.write(address, partial(_give_back, batch_id=batch_id, now=now)):
        counts["todo"] += given_back
    db.write(address, partial(_close, batch_id=batch_id, now=now, pages=pages))
    return counts


def _close(session: Session, batch_id: int, now: datetime, pages: str | None) -> None:
    """Mark a batch as closed, if no other call has done so."""
    row = session.get_one(LinkBatch, batch_id)
    if row.closed is None:
        row.closed, row.pages = now, pages


def _is_closed(address: str, batch_id: int) -> bool:
    """Tell whether a batch is closed."""
    with db.reading(address) as session:
        found = session.get(LinkBatch, batch_id)
    if found is None:
        raise ValueError(f"the ledger has no batch {batch_id}; open_batch gives one")
    return found.closed is not None


def _apply(
    session: Session,
    batch_id: int,
    outcomes: list[Mapping[str, Any]],
    now: datetime,
    retry: Retry,
) -> Counter[str]:
    """Apply outcomes to links that the batch still holds; return counts."""
    by_key = {key_of(outcome["url"]): outcome for outcome in outcomes}
    ids = _name_ids(session, outcomes)
    query = select(Link.key, Link.url, Link.attempts, Link.batch_id, Link.state)
    rows: list[dict[str, Any]] = []
    changes: Changes = Counter()
    for key, url, attempts, batch, state in session.execute(query.where(Link.key.in_(by_key))):
        outcome = by_key[key]
        if (url, batch, state) == (outcome["url"], batch_id, LinkState.CLAIMED):
            row = outcome_row(outcome, attempts + 1, now, retry, ids)
            changes[row["state"], outcome.get("reason") or ""] += 1
            rows.append({"its_key": key} | row)
    update_links(session, rows, *OUTCOME)
    counts = Counter({"unknown": len(outcomes) - len(rows)})
    for (state, _), n in changes.items():
        counts[LinkState(state).name.lower()] += n
    changes[LinkState.CLAIMED.value, ""] -= len(rows)
    count_links(session, changes)
    return counts


def _name_ids(session: Session, outcomes: list[Mapping[str, Any]]) -> dict[str | None, int | None]:
    """Return the numbers of all reasons and WARC files in outcomes, new ones included."""
    named = {outcome.get(field) for outcome in outcomes for field in ("reason", "warc")}
    names = sorted(name for name in named if name)
    query = select(LinkName).where(LinkName.name.in_(names))
    known = {row.name: row for row in session.scalars(query)}
    new = {name: LinkName(name=name) for name in names if name not in known}
    session.add_all(new.values())
    session.flush()
    return {None: None, "": None} | {name: row.id for name, row in (known | new).items()}


def _give_back(session: Session, batch_id: int, now: datetime) -> int:
    """Make some links of a batch that have no outcome due again; return how many."""
    query = select(Link.key).where(*_claimed_by(batch_id)).limit(CHUNK)
    keys = list(session.scalars(query))
    back = {"state": LinkState.TODO.value, "due": seconds(now)}
    session.connection().execute(update(LINK).where(LINK.c.key.in_(keys)).values(back))
    counted = {(LinkState.TODO.value, ""): len(keys), (LinkState.CLAIMED.value, ""): -len(keys)}
    count_links(session, Counter(counted))
    return len(keys)
