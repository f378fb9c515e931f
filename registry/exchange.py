"""push and pull: what the catalogue knows, to and from a storage that any machine can reach.

The catalogue of the machine that pulls may be empty: rows, lineage, scores, versions and aliases
come from the records beside the bytes (records.py).
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from registry import (
    artifacts,
    catalogue,
    db,
    manifests,
    models,
    objects,
    records,
    shelf,
    standing,
    tables,
    tracking,
    versions,
)
from registry.artifacts import Artifact
from registry.objects import Progress, StorageError, silent
from registry.records import AliasRecord, ArtifactRecord, ModelRecord
from registry.tables import ModelVersion
from registry.workspace import Workspace

log = logging.getLogger(__name__)

NAMED = 5  # damaged objects named in one line


@dataclass(frozen=True)
class Moved:
    """What became of one thing that was pushed or pulled."""

    what: str
    size: int = 0  # bytes
    n_files: int = 0
    done: str = ""
    error: str = ""


def push(
    ws: Workspace,
    references: Sequence[str] = (),
    *,
    force: bool = False,
    progress: Progress = silent,
) -> Iterator[Moved]:
    """Prove artifacts and all they were made from at the storage, mending what is bad there.

    Without references: everything in the catalogue, and what a killed publish left beside it.
    One that fails does not keep the others from going. With `force`, an alias that was moved at
    the storage by somebody else is moved to where it stands here.
    """
    if not references:
        yield from _adopt(ws)
    failed: set[str] = set()
    rows = _rows(ws, references)
    for row in rows:
        moved = _push_one(ws, row, progress)
        failed |= {row.fingerprint} if moved.error else set()
        yield moved
    yield from _push_models(ws, {row.fingerprint for row in rows} - failed, force=force)


def damage(
    ws: Workspace, references: Sequence[str] = (), *, progress: Progress = silent
) -> Iterator[Moved]:
    """Hash every object at the storage and name those that are bad; change nothing."""
    for row in _rows(ws, references):
        bad = versions.verify(ws, row.dvc_md5, progress)
        yield _moved(row, "every object hashed: sound", _named(ws, row.dvc_md5, bad))


def pull(
    ws: Workspace,
    references: Sequence[str] = (),
    *,
    inputs: bool = False,
    progress: Progress = silent,
) -> Iterator[Moved]:
    """Bring artifacts here, with the catalogue rows of all they were made from.

    Without references: what stands under every alias at the storage.

    Args:
        ws: the workspace; its catalogue may be empty.
        references: as `checkout` takes them.
        inputs: bring the bytes of what they were made from as well.
        progress: is told of the bytes.

    Raises:
        ValueError: neither the storage nor the catalogue has it.
        StorageError: bytes or records are missing or damaged.
    """
    for reference in references or shelf.list_aliases(ws):
        found = shelf.find(ws, reference)
        if found is None:  # never pushed with its record, or known here only
            yield _bring(ws, _known(ws, reference), "checked out", progress)
            continue
        told = found.record.told
        chain = shelf.lineage(ws, found.record)
        _insert(ws, chain)
        for other in chain[:-1] if inputs else ():
            below = artifacts.look_up(ws, other.told.fingerprint)
            yield _bring(ws, below, "an input", progress)
        asked = artifacts.look_up(ws, told.fingerprint)
        yield _bring(ws, asked, f"with {len(chain) - 1} inputs in the catalogue", progress)
        if found.model is not None:
            version = _register(ws, asked, found.model)
            yield Moved(f"{found.model.name}/{version}", done="registered")
        if found.alias is not None:
            yield _move_alias(ws, found.alias)


def without_record(ws: Workspace) -> list[str]:
    """Return the artifacts that another machine could not pull; the storage is asked for names."""
    there = set(records.list_names(ws, records.ARTIFACTS))
    return [
        _moved(row, "").what
        for row in _rows(ws, [])
        if records.address(tables.Kind(row.kind), row.name, row.fingerprint) not in there
    ]


# Push


def _rows(ws: Workspace, references: Sequence[str]) -> list[tables.Artifact]:
    """Return the rows that are meant and all their ancestors, parents first; not removed ones."""
    with db.reading(ws.database_url) as session:
        if not references:
            rows = catalogue.list_artifacts(session, limit=None)
        else:
            asked = [artifacts.look_up(ws, reference).fingerprint for reference in references]
            rows = list(_with_ancestors(session, asked).values())
    return sorted((row for row in rows if row.removed is None), key=lambda row: row.id)


def _with_ancestors(session: Session, fingerprints: Iterable[str]) -> dict[int, tables.Artifact]:
    """Return artifacts and all they were made from, by row."""
    found: dict[int, tables.Artifact] = {}
    for fingerprint in fingerprints:
        row = catalogue.find_artifact(session, fingerprint)
        assert row is not None
        found[row.id] = row
        parents = (edge.parent for edge in catalogue.ancestors(session, fingerprint))
        found |= {parent.id: parent for parent in parents if parent is not None}
    return found


def _push_one(ws: Workspace, row: tables.Artifact, progress: Progress) -> Moved:
    """Prove one artifact's bytes at the storage, and write its record."""
    try:
        bad = _push_bytes(ws, row, progress)
        with db.reading(ws.database_url) as session:
            record = records.of_artifact(session, row)
        records.put(ws, records.address(record.told.kind, row.name, row.fingerprint), record)
    except (StorageError, OSError) as error:
        return _moved(row, "", str(error))
    return _moved(row, _told(ws, row, bad))


def _told(ws: Workspace, row: tables.Artifact, bad: dict[str, str]) -> str:
    """Say what a push found and did."""
    if not bad:
        return "every object hashed: sound"
    if bad.get(row.dvc_md5) == "missing":  # it was not there at all, or not whole
        return f"{len(bad):,} objects copied, every one hashed there"
    return f"mended {_named(ws, row.dvc_md5, bad)}"


def _push_bytes(ws: Workspace, row: tables.Artifact, progress: Progress) -> dict[str, str]:
    """Push from the cache; if it lacks what is needed, fill it from the artifact's folder."""
    try:
        return versions.push(ws, row.dvc_md5, progress)
    except StorageError:
        folder = artifacts.path_of(ws, row.kind, row.name, row.fingerprint)
        if manifests.damage(folder, row.manifest, verify=True):
            raise
        versions.snapshot(ws, folder)
        return versions.push(ws, row.dvc_md5, progress)


def _adopt(ws: Workspace) -> Iterator[Moved]:
    """Finish the publishes whose bytes did not reach the storage: folders without a row."""
    for folder in sorted(ws.artifacts.glob("*/*/*")):
        manifest = manifests.read(folder)
        if manifest is None or folder.name != manifest["fingerprint"][: artifacts.DIGITS]:
            continue
        with db.reading(ws.database_url) as session:
            if catalogue.find_artifact(session, manifest["fingerprint"]) is not None:
                continue
        try:
            artifacts.find(ws, manifest["kind"], manifest["fingerprint"])
        except (StorageError, OSError) as error:
            yield Moved(f"{manifest['kind']}/{manifest['name']}@{folder.name}", error=str(error))


def _push_models(ws: Workspace, pushed: set[str], *, force: bool) -> Iterator[Moved]:
    """Write the records of the versions and aliases whose bytes were proved."""
    with db.reading(ws.database_url) as session:
        rows = [row for row in catalogue.list_models(session) if row.artifact.fingerprint in pushed]
        holders = {(row.name, row.version): row.artifact.fingerprint for row in rows}
        aliases = [a for a in catalogue.list_aliases(session) if (a.name, a.version) in holders]
    for row in rows:
        yield _push_version(ws, row)
    for alias in aliases:
        what = f"{alias.name}@{alias.alias}"
        try:
            yield Moved(what, done=standing.push(ws, alias, force=force))
        except models.Conflict as error:
            yield Moved(what, error=str(error))


def _push_version(ws: Workspace, row: ModelVersion) -> Moved:
    """Write a version's record."""
    record = ModelRecord(
        name=row.name,
        version=row.version,
        kind=row.artifact.kind,
        artifact=row.artifact.name,
        fingerprint=row.artifact.fingerprint,
        tags={key: str(value) for key, value in row.tags.items()},
        created=row.created,
    )
    records.put(ws, f"{records.MODELS}/{row.name}/{record.fingerprint}", record)
    return Moved(f"{row.name}/{row.version}", done="record written")


# Pull


def _insert(ws: Workspace, chain: Sequence[ArtifactRecord]) -> None:
    """Make catalogue rows of records, parents first."""

    def work(session: Session) -> None:
        for record in chain:
            records.add(session, record)

    db.write(ws.database_url, work)


def _known(ws: Workspace, reference: str) -> Artifact:
    """Return an artifact that only the catalogue knows by this name."""
    try:
        return artifacts.look_up(ws, reference)
    except ValueError as error:
        there = ", ".join(
            place.split("/", 1)[1] for place in records.list_names(ws, records.ALIASES)
        )
        raise ValueError(
            f"the storage {objects.place(ws)[1]} has no {reference} (models there: "
            f"{there.replace('/', '@') or 'none'}), nor has this catalogue: {error}"
        ) from None


def _bring(ws: Workspace, artifact: Artifact, done: str, progress: Progress) -> Moved:
    """Bring an artifact's bytes here, verified."""
    artifacts.checkout(ws, artifact.fingerprint, progress=progress)
    return Moved(artifact.reference, artifact.size, artifact.n_files, done)


def _register(ws: Workspace, artifact: Artifact, record: ModelRecord) -> int:
    """Register a pulled version, under its number if that is free here."""
    for row in models.list_models(ws, record.name):
        if row["fingerprint"] == artifact.fingerprint:
            return int(row["version"])
    run = tracking.start(ws, f"pull {record.name}/{record.version}")
    tracking.finish(ws, run)
    return models.register(ws, record.name, artifact, run, tags=record.tags, number=record.version)


def _move_alias(ws: Workspace, record: AliasRecord) -> Moved:
    """Move an alias to where it stands at the storage, if that is ahead of here."""
    what = f"{record.name}@{record.alias}"
    try:
        return Moved(what, done=standing.pull(ws, record))
    except models.Conflict as error:
        return Moved(what, error=str(error))


def _moved(row: tables.Artifact, done: str, error: str = "") -> Moved:
    """Say what became of a row's bytes."""
    what = f"{row.kind}/{row.name}@{row.fingerprint[: artifacts.DIGITS]}"
    return Moved(what, row.size, row.n_files, done, error)


def _named(ws: Workspace, md5: str, bad: dict[str, str]) -> str:
    """Name bad objects by the files they are: "2 missing (a.bin 900150983cd2), 1 damaged"."""
    if not bad:
        return ""
    try:
        places = [objects.cache(ws), objects.remote(ws)]
        names = {oid: str(path) for path, oid in objects.entries(places, md5)}
    except StorageError:
        names = {}
    counts = Counter(bad.values())
    told = [f"{names.get(oid, 'listing')} {oid[:12]} {how}" for oid, how in bad.items()][:NAMED]
    return ", ".join(f"{n:,} {how}" for how, n in sorted(counts.items())) + f" ({'; '.join(told)})"
