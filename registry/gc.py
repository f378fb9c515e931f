"""gc: give up the bytes that nothing needs any more, and nothing else.

What is kept: registered versions, pinned artifacts, the newest of each kind and name (schedules go
on from it), what another catalogue registered at the same storage, and all that those were made
from. What goes is first marked in the catalogue, in one transaction that looks again: from then on
nobody starts from it. Then its record, its objects and last its listing go from the storage, so a
gc that was killed goes on where it was. Only objects that an artifact of ours lists are touched:
the cache and the storage may hold a person's own data as well.
"""

import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import select
from sqlalchemy.orm import Session, load_only

from registry import artifacts, catalogue, db, objects, records, runs, strays, tables, versions
from registry.objects import Progress, StorageError, silent
from registry.records import ArtifactRecord, ModelRecord
from registry.tables import Artifact, Kind, Lineage, ModelVersion, Status
from registry.workspace import Workspace

log = logging.getLogger(__name__)

FOLDER, CACHE, STORAGE, TEMPORARY = "artifacts/", "DVC cache", "storage", "temporary"


@dataclass(frozen=True)
class Item:
    """One thing that goes, or went."""

    place: str
    what: str
    size: int  # bytes
    why: str


@dataclass(frozen=True)
class Places:
    """Where to clear up."""

    folders: bool = True
    cache: bool = True
    storage: bool = False


def keep(
    parents: Mapping[int, Iterable[int]], roots: Mapping[int, str], names: Mapping[int, str]
) -> dict[int, str]:
    """Return what must stay, and why: the roots and all that they were made from."""
    kept = dict(roots)
    waiting = list(roots)
    while waiting:
        child = waiting.pop()
        for parent in parents.get(child, ()):
            if parent not in kept:
                kept[parent] = f"{names[child]} was made from it"
                waiting.append(parent)
    return kept


def survey(ws: Workspace, places: Places) -> tuple[list[Item], dict[str, str]]:
    """Return what would go, largest first, and what stays: {reference: why}. Changes nothing.

    Raises:
        StorageError: what the kept ones need cannot be known, as a listing of theirs is lost.
    """
    elsewhere = _registered_at_storage(ws)
    with db.reading(ws.database_url) as session:
        rows, kept = _weigh(session, elsewhere)
    found = [_stray(ws, stray) for stray in strays.find(ws)]
    remade = _remade(ws, rows)
    need = _needed(ws, rows, kept, remade)
    going = [row for row in rows if row.id not in kept and row.fingerprint not in remade]
    for row in going:
        found += _would_go(ws, row, need, places)
    stays = {_name(row): kept[row.id] for row in rows if row.id in kept}
    return sorted(found, key=lambda item: -item.size), stays


def collect(ws: Workspace, places: Places, progress: Progress = silent) -> Iterator[Item]:
    """Remove what nothing needs, and yield each thing that went. May be killed and run again.

    Raises:
        ValueError: a run is under way, which may be using what would go.
        StorageError: what the kept ones need cannot be known, or a place refuses.
    """
    for stray in strays.find(ws):
        strays.remove(stray)
        yield _stray(ws, stray)
    going, need = _decide(ws, places)
    for done, row in enumerate(going, 1):
        if places.storage:
            with objects.storage_lock(ws):
                yield from _sweep(ws, STORAGE, objects.remote(ws), row, need)
        if _may_leave(ws, row, places):
            yield from _leave(ws, row, need, places)
        progress(done, len(going), "clearing up")


def _may_leave(ws: Workspace, row: Artifact, places: Places) -> bool:
    """Say whether the copies of one that goes may leave this machine: never the last ones."""
    if not (places.folders or places.cache):
        return False
    if row.removed is not None or not versions.verify(ws, row.dvc_md5):
        return True
    log.warning("%s stays here: it is not whole at the storage", _name(row))
    return False


def _leave(ws: Workspace, row: Artifact, need: set[str], places: Places) -> Iterator[Item]:
    """Remove one artifact's copies here."""
    if places.folders:
        yield from _drop_folder(ws, row)
    if places.cache:
        with objects.storage_lock(ws):
            yield from _sweep(ws, CACHE, objects.cache(ws), row, need)


def _decide(ws: Workspace, places: Places) -> tuple[list[Artifact], set[str]]:
    """Mark what goes, once it is known what the rest needs; return both."""
    elsewhere = _registered_at_storage(ws)
    with db.reading(ws.database_url) as session:
        rows, before = _weigh(session, elsewhere)
    remade = _remade(ws, rows)
    need = _needed(ws, rows, before, remade)
    rows, kept = db.write(
        ws.database_url, lambda session: _mark(session, elsewhere, mark=places.storage)
    )
    if kept.keys() - before.keys():  # something was registered or made in the meantime
        need = _needed(ws, rows, kept, remade)
    return [row for row in rows if row.id not in kept and row.fingerprint not in remade], need


def pin(ws: Workspace, reference: str, reason: str | None) -> str:
    """Keep an artifact from gc for a reason, or no longer (None); return its reference."""
    artifact = artifacts.look_up(ws, reference)
    if artifact.removed:
        raise ValueError(f"{artifact.reference} was removed by gc: there is nothing to keep")

    def work(session: Session) -> None:
        row = catalogue.find_artifact(session, artifact.fingerprint)
        assert row is not None
        row.pinned = reason

    db.write(ws.database_url, work)
    return artifact.reference


# What stays


def _weigh(session: Session, elsewhere: Mapping[str, str]) -> tuple[list[Artifact], dict[int, str]]:
    """Return all rows, and those that must stay with the reason."""
    columns = ("kind", "name", "fingerprint", "dvc_md5", "size", "created", "pinned", "removed")
    some = load_only(*(getattr(Artifact, column) for column in columns))
    rows = list(session.scalars(select(Artifact).options(some).order_by(Artifact.id)))
    roots = _roots(session, rows, elsewhere)
    parents: dict[int, list[int]] = {}
    for child, parent in session.execute(select(Lineage.child_id, Lineage.parent_id)):
        parents.setdefault(child, []).extend([] if parent is None else [parent])
    return rows, keep(parents, roots, {row.id: _name(row) for row in rows})


def _roots(
    session: Session, rows: Iterable[Artifact], elsewhere: Mapping[str, str]
) -> dict[int, str]:
    """Return what stays by itself, and why."""
    newest = {(row.kind, row.name): row.id for row in rows if row.removed is None}
    found = {row: f"the newest {kind}/{name}" for (kind, name), row in newest.items()}
    here = [row for row in rows if row.removed is None]
    found |= {row.id: elsewhere[row.fingerprint] for row in here if row.fingerprint in elsewhere}
    found |= {row.id: f"pinned: {row.pinned}" for row in here if row.pinned is not None}
    # a version's checkpoint does not lead to it, but MLflow's source does (registry/served.py)
    found |= {row.id: "MLflow loads a version by it" for row in here if row.kind == Kind.MODEL}
    versions_ = session.execute(
        select(ModelVersion.artifact_id, ModelVersion.name, ModelVersion.version)
    )
    return found | {row: f"version {name}/{number}" for row, name, number in versions_}


def _registered_at_storage(ws: Workspace) -> dict[str, str]:
    """Return the fingerprints that any catalogue registered at the storage."""
    found = {}
    for place in records.list_names(ws, records.MODELS):
        record = records.get(ws, place, ModelRecord)
        if record is not None:
            found[record.fingerprint] = f"version {record.name}/{record.version} at the storage"
    return found


def _remade(ws: Workspace, rows: Iterable[Artifact]) -> set[str]:
    """Return what was given up here and published again since, from another catalogue."""
    found = set()
    for row in rows:
        if row.removed is None:
            continue
        place = records.address(Kind(row.kind), row.name, row.fingerprint)
        record = records.get(ws, place, ArtifactRecord)
        if record is not None and record.created > row.removed:
            found.add(row.fingerprint)
    return found


def _needed(
    ws: Workspace, rows: Iterable[Artifact], kept: Mapping[int, str], remade: set[str]
) -> set[str]:
    """Return the objects of all that stays, of others' artifacts at the storage, and of data.dvc.

    Raises:
        StorageError: a listing of one that stays is lost.
    """
    remote, cache = objects.remote(ws), objects.cache(ws)
    need = set(_data_objects(ws, cache))
    listings = {row.dvc_md5: _name(row) for row in rows if row.id in kept and row.removed is None}
    listings |= _others(ws, {row.fingerprint for row in rows} - remade)
    for md5, name in listings.items():
        try:
            need.update(objects.members([cache, remote], md5))
        except StorageError as error:
            raise StorageError(
                f"{name}: {error}; so nothing is removed. Mend it first: textmill push"
            ) from None
    return need


def _others(ws: Workspace, ours: set[str]) -> dict[str, str]:
    """Return the listings of artifacts at the storage that this catalogue does not know."""
    found = {}
    for place in records.list_names(ws, records.ARTIFACTS):
        if place.rpartition("/")[2] not in ours:
            record = records.get(ws, place, ArtifactRecord)
            if record is not None:
                found[record.dvc_md5] = place
    return found


def _data_objects(ws: Workspace, cache: Any) -> Iterator[str]:
    """Return the cached objects of the .dvc files at the project's root."""
    for pointer in ws.root.glob("*.dvc"):
        if not pointer.is_file():
            continue
        for out in yaml.safe_load(pointer.read_text()).get("outs", []):
            md5 = str(out.get("md5", ""))
            yield md5
            if md5.endswith(".dir") and not objects.find_bad(cache, [md5]):
                yield from objects.members([cache], md5)


# What goes


def _mark(
    session: Session, elsewhere: Mapping[str, str], *, mark: bool
) -> tuple[list[Artifact], dict[int, str]]:
    """Weigh again and mark what goes, unless a run is under way."""
    dead = {run.id for run in runs.interrupted_runs(session)}
    running = [run for run in _running(session) if run.id not in dead]
    if running:
        run = running[0]
        raise ValueError(
            f"run {run.id} ({run.stage} {run.name}, pid {run.pid} on {run.host}) is under way and "
            "may need what would go; run gc when it has ended"
        )
    rows, kept = _weigh(session, elsewhere)
    for row in rows if mark else ():
        if row.id not in kept and row.removed is None:
            row.removed = datetime.now(UTC)
    return rows, kept


def _running(session: Session) -> list[tables.Run]:
    """Return the runs that say that they run."""
    return list(session.scalars(select(tables.Run).where(tables.Run.status == Status.RUNNING)))


def _would_go(ws: Workspace, row: Artifact, need: set[str], places: Places) -> Iterator[Item]:
    """Return what of one artifact would go where."""
    folder = artifacts.path_of(ws, row.kind, row.name, row.fingerprint)
    why = _why(row)
    if places.folders and folder.is_dir():
        yield Item(FOLDER, _name(row), strays.size_of(folder), why)
    for wanted, place, odb in (
        (places.cache, CACHE, objects.cache(ws)),
        (places.storage, STORAGE, objects.remote(ws)),
    ):
        if wanted and (sizes := _sizes(ws, odb, row.dvc_md5, need)):
            yield Item(place, _name(row), sum(sizes.values()), why)


def _sizes(ws: Workspace, odb: Any, md5: str, need: set[str]) -> dict[str, int]:
    """Return the objects of a version that lie in a place and that nothing needs, with sizes."""
    try:
        listed = objects.members([objects.cache(ws), objects.remote(ws)], md5)
    except StorageError:  # the listing goes last: the rest went already
        return {}
    return objects.sizes(odb, [oid for oid in listed if oid not in need])


def _sweep(ws: Workspace, place: str, odb: Any, row: Artifact, need: set[str]) -> Iterator[Item]:
    """Remove what one artifact alone has in a place; its listing last."""
    if place == STORAGE:
        records.remove(ws, records.address(Kind(row.kind), row.name, row.fingerprint))
    sizes = _sizes(ws, odb, row.dvc_md5, need)
    objects.remove(odb, sizes)
    if sizes:
        yield Item(place, _name(row), sum(sizes.values()), _why(row))


def _drop_folder(ws: Workspace, row: Artifact) -> Iterator[Item]:
    """Remove an artifact's folder here; under its own name it is whole or not there."""
    folder = artifacts.path_of(ws, row.kind, row.name, row.fingerprint)
    if not folder.is_dir():
        return
    size = strays.size_of(folder)
    gone = folder.with_name(f".{folder.name}.gone-{os.getpid()}")
    folder.rename(gone)
    shutil.rmtree(gone)
    _drop_empty(folder.parent)
    yield Item(FOLDER, _name(row), size, _why(row))


def _drop_empty(folder: Path) -> None:
    """Remove a folder that holds nothing."""
    if not any(folder.iterdir()):
        folder.rmdir()


def _stray(ws: Workspace, stray: strays.Stray) -> Item:
    return Item(TEMPORARY, str(stray.path.relative_to(ws.root)), stray.size, stray.why)


def _name(row: Artifact) -> str:
    return f"{row.kind}/{row.name}@{row.fingerprint[: artifacts.DIGITS]}"


def _why(row: Artifact) -> str:
    """Say why nothing needs an artifact."""
    if row.removed is not None:
        return f"given up on {row.removed:%Y-%m-%d}"
    return f"of {row.created:%Y-%m-%d}; a newer {row.kind}/{row.name} is there, no version needs it"
