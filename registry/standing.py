"""Aliases between catalogues: one moves to where another catalogue has it only if that is ahead.

Each side's history is a list of (version, moment). Where one ends inside the other it goes on from
there; where both went on, neither is moved and the person decides.
"""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry import db, models, records
from registry.models import Conflict
from registry.records import AliasRecord, Holder
from registry.tables import Alias, AliasMove
from registry.workspace import Workspace


def push(ws: Workspace, alias: Alias, *, force: bool) -> str:
    """Write who holds an alias, unless somebody moved it on at the storage; say what was done.

    Raises:
        Conflict: it was moved there and here, apart from each other.
    """
    where, what = f"{records.ALIASES}/{alias.name}/{alias.alias}", f"{alias.name}@{alias.alias}"
    mine, reason = _holders(ws, alias.name, alias.alias)
    there = records.get(ws, where, AliasRecord)
    theirs = there.holders if there else []
    if theirs and theirs[-1].fingerprint == mine[-1].fingerprint:
        return f"version {alias.version}, as at the storage"
    if theirs and not force and not is_ahead(mine, theirs):
        raise Conflict(_apart(what, theirs[-1]))
    common = mine.index(theirs[-1]) + 1 if theirs and theirs[-1] in mine else 0
    joined = theirs + (mine[common:] if common or not theirs else mine[-1:])
    record = AliasRecord(name=alias.name, alias=alias.alias, holders=joined, reason=reason)
    records.put(ws, where, record)
    return f"version {alias.version}"


def is_ahead(one: Sequence[Holder], other: Sequence[Holder]) -> bool:
    """Say whether one history of an alias goes on where the other one stands."""
    return other[-1] in one[:-1]


def _holders(ws: Workspace, name: str, alias: str) -> tuple[list[Holder], str]:
    """Return who held an alias here, oldest first, and the last reason."""
    moves = models.history(ws, name, alias=alias)
    prints = {row["version"]: row["fingerprint"] for row in models.list_models(ws, name)}
    holders = [Holder(fingerprint=prints[move.version], moved=move.created) for move in moves]
    return holders, moves[-1].reason if moves else ""


def _apart(what: str, there: Holder) -> str:
    """Say that an alias was moved in two places."""
    print_ = there.fingerprint[:12]
    return (
        f"not moved: it went to {print_} at the storage and elsewhere here. Bring that one with "
        f"`textmill pull {what}` and promote it, or make yours hold with `textmill push --force`"
    )


def pull(ws: Workspace, record: AliasRecord) -> str:
    """Move an alias to where it stands at the storage, if that is ahead; say what was done.

    Raises:
        Conflict: it was moved there and here, apart from each other.
    """
    what = f"{record.name}@{record.alias}"
    mine, _ = _holders(ws, record.name, record.alias)
    theirs = record.holders
    prints = {row["fingerprint"]: row["version"] for row in models.list_models(ws, record.name)}
    version = prints[theirs[-1].fingerprint]
    if mine and mine[-1].fingerprint == theirs[-1].fingerprint:
        _date_move(ws, record)
        return f"version {version}, as at the storage"
    if mine and is_ahead(mine, theirs):
        return f"version {prints[mine[-1].fingerprint]}, ahead of the storage"
    if mine and not is_ahead(theirs, mine):
        raise Conflict(_apart(what, theirs[-1]))
    models.promote(
        ws,
        record.name,
        version,
        expected=prints[mine[-1].fingerprint] if mine else None,
        reason=f"pulled: {record.reason}",
        alias=record.alias,
    )
    _date_move(ws, record)
    return f"version {version}"


def _date_move(ws: Workspace, record: AliasRecord) -> None:
    """Date the last move as at the storage: from there on both are one history."""

    def work(session: Session) -> None:
        query = select(AliasMove).filter_by(name=record.name, alias=record.alias)
        move = session.scalars(query.order_by(AliasMove.id.desc())).first()
        assert move is not None, "it was moved a moment ago"
        move.created = record.holders[-1].moved

    db.write(ws.database_url, work)
