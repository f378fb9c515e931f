"""What other systems must still be told: written with the truth, replayed until they know."""

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.tables import Outbox, now


def enqueue(
    session: Session, system: str, action: str, topic: str, payload: dict[str, Any]
) -> Outbox:
    """Note what another system must be told, in the transaction that makes it so."""
    row = Outbox(system=system, action=action, topic=topic, payload=payload)
    session.add(row)
    session.flush()
    return row


def pending(
    session: Session, system: str, *, topic: str | None = None, limit: int = 1000
) -> list[Outbox]:
    """Return what a system has not been told yet, oldest first."""
    query = select(Outbox).where(Outbox.system == system, Outbox.done.is_(None))
    if topic is not None:
        query = query.where(Outbox.topic == topic)
    return list(session.scalars(query.order_by(Outbox.id).limit(limit)))


def count_pending(session: Session, system: str) -> int:
    """Count what a system has not been told yet."""
    query = select(func.count()).where(Outbox.system == system, Outbox.done.is_(None))
    return session.execute(query).scalar_one()


def mark_done(session: Session, row_id: int) -> None:
    """Note that the other system has been told."""
    row = session.get(Outbox, row_id)
    assert row is not None, "rows are never removed"
    row.done, row.attempts = now(), row.attempts + 1
