"""The two verbs that flows use: publish what was made, check out what exists.

An artifact becomes permanent in four steps, each of which may be the last before a kill:
write the manifest and flush; rename to the final name; snapshot and push to the storage, every
object hashed there again and a record beside them; add the catalogue row. `find` continues from
wherever that stopped.
"""

import hashlib
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from registry import (
    catalogue,
    db,
    manifests,
    provenance,
    records,
    references,
    runs,
    tables,
    versions,
)
from registry.files import (
    BusyError,
    canonical,
    check_name,
    fsync,
    fsync_tree,
    locked,
    move_aside,
)
from registry.objects import Progress, silent
from registry.tables import Kind
from registry.workspace import Workspace

log = logging.getLogger(__name__)

DIGITS = 16  # of the fingerprint, in folder names


@dataclass(frozen=True)
class Artifact:
    """A finished directory and what the catalogue says of it."""

    kind: Kind
    name: str
    fingerprint: str
    path: Path
    config: dict[str, Any]
    counts: dict[str, Any]
    inputs: dict[str, str]  # role -> fingerprint of an artifact or of data files
    size: int  # bytes
    n_files: int
    dvc_md5: str
    created: datetime
    run_id: str | None
    removed: bool = False  # gc gave its bytes up

    @property
    def reference(self) -> str:
        """What to give `checkout` to get exactly this artifact."""
        return f"{self.kind}/{self.name}@{self.fingerprint[:DIGITS]}"


def fingerprint(
    kind: Kind | str, config: Mapping[str, Any], inputs: Mapping[str, str], version: int
) -> str:
    """Return the hash of what decides over an artifact's bytes (64 hex digits).

    Inputs are role -> fingerprint; version is that of the step's code.
    """
    text = canonical(
        {
            "kind": str(Kind(kind)),
            "config": dict(config),
            "inputs": dict(inputs),
            "version": version,
        }
    )
    return hashlib.sha256(text.encode()).hexdigest()


def path_of(ws: Workspace, kind: Kind | str, name: str, fp: str) -> Path:
    """Return where an artifact lies, or will lie."""
    return ws.artifacts / str(Kind(kind)) / check_name(name) / fp[:DIGITS]


@contextmanager
def workdir(
    ws: Workspace, kind: Kind | str, name: str, fp: str, *, wait: bool = False
) -> Iterator[Path]:
    """Hold the one right to make an artifact, and yield the folder to make it in.

    What a failed or killed try left there is kept for the next one. After waiting, call `find`
    again: the other run has probably made it.

    Raises:
        BusyError: another run is making the same artifact; the message names it.
    """
    final = path_of(ws, kind, name, fp)
    lock = ws.state / "locks" / f"{kind}.{name}.{fp[:DIGITS]}.lock"
    with locked(lock, wait=wait):
        work = final.with_name(final.name + ".work")
        work.mkdir(parents=True, exist_ok=True)
        yield work


def publish(
    ws: Workspace,
    work: Path,
    *,
    kind: Kind | str,
    name: str,
    fingerprint: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, "Artifact | str"],
    counts: Mapping[str, Any],
    run_id: str | None = None,
) -> Artifact:
    """Make a finished work folder permanent: manifest, rename, storage, catalogue.

    Inputs are role -> Artifact, or the fingerprint of data files.

    Raises:
        StorageError: the bytes could not be proved to be in the storage; call again to go on.
        LeaseLost: the run was taken for dead; the folder stays, and `find` takes it up.
    """
    final = path_of(ws, kind, name, fingerprint)
    if final.exists():
        if not manifests.damage(final, manifests.read(final), verify=True):
            shutil.rmtree(work, ignore_errors=True)
            return _complete(ws, final, run_id)
        log.warning("%s is damaged, moved to %s", final, move_aside(final, "damaged"))
    manifest = {
        "format": 1,
        "kind": str(Kind(kind)),
        "name": name,
        "fingerprint": fingerprint,
        "config": dict(config),
        "counts": dict(counts),
        "inputs": {role: _input(value) for role, value in inputs.items()},
        "code_version": provenance.code_version(),
        "libraries": provenance.library_versions(),
        "git_commit": provenance.git_commit(ws.root),
        "data_version": versions.data_version(ws),
        "files": manifests.hash_files(work),
    }
    manifests.write(work, manifest)
    fsync_tree(work)
    _rename(work, final)
    return _complete(ws, final, run_id)


def find(
    ws: Workspace, kind: Kind | str, fingerprint: str, *, verify: bool = False
) -> Artifact | None:
    """Return an artifact whose bytes are here, restoring them or finishing a killed publish.

    Raises:
        StorageError: the catalogue has it, but its bytes are neither here nor in the storage.
    """
    with db.reading(ws.database_url) as session:
        row = catalogue.find_artifact(session, fingerprint)
        known = None if row is None else _from_row(ws, row)
        manifest = None if row is None else row.manifest
    if known is not None and manifest is not None and not known.removed:
        if known.kind != kind:
            raise ValueError(f"{fingerprint[:DIGITS]} is {known.kind}, not {kind}")
        _bring(ws, known, manifest, verify=verify)
        return known
    return _adopt(ws, Kind(kind), fingerprint)


def checkout(
    ws: Workspace, reference: str, *, verify: bool = True, progress: Progress = silent
) -> Artifact:
    """Bring an artifact's bytes here, verified.

    A reference is model@alias ("textmill-sample@champion"), model/version ("textmill-sample/3"),
    kind/name (the newest), kind/name@fingerprint, or the beginning of a fingerprint.

    Raises:
        ValueError: there is no such thing, or more than one; the message lists what there is.
    """
    with db.reading(ws.database_url) as session:
        row = references.find(session, reference)
        artifact, manifest = _from_row(ws, row), row.manifest
    if artifact.removed:
        raise ValueError(f"{artifact.reference} was removed by gc: run its flow again to make it")
    _bring(ws, artifact, manifest, verify=verify, progress=progress)
    return artifact


def look_up(ws: Workspace, reference: str) -> Artifact:
    """Return what the catalogue says of a reference (as in `checkout`), touching no bytes."""
    with db.reading(ws.database_url) as session:
        return _from_row(ws, references.find(session, reference))


def _input(value: "Artifact | str") -> dict[str, str]:
    """Return an input's entry in the manifest."""
    if isinstance(value, str):
        return {"data": value}
    return {"artifact": value.fingerprint, "kind": str(value.kind), "name": value.name}


def _rename(work: Path, final: Path) -> None:
    """Give a work folder its final name, durably."""
    work.rename(final)
    fsync(final.parent)


def _complete(ws: Workspace, final: Path, run_id: str | None) -> Artifact:
    """Store a renamed folder's bytes and add its catalogue row."""
    manifest = manifests.read(final)
    assert manifest is not None, f"{final} has no manifest"
    version = versions.snapshot(ws, final)
    versions.push(ws, version.md5)
    inputs = {
        role: entry.get("artifact") or entry["data"] for role, entry in manifest["inputs"].items()
    }

    created = tables.now()

    def row() -> tables.Artifact:
        return tables.Artifact(
            **{key: manifest[key] for key in ("kind", "name", "fingerprint", "config", "counts")},
            **{key: manifest[key] for key in ("code_version", "git_commit", "data_version")},
            manifest=manifest,
            size=version.size,
            n_files=version.n_files,
            dvc_md5=version.md5,
            dvc_file=version.dvc_file,
            created=created,
            run_id=run_id,
        )

    with db.reading(ws.database_url) as session:
        runs.hold(session, run_id)  # bytes go by their hash and harm nobody, a record has a name
        record = records.of_artifact(session, row())
    records.put(ws, records.address(manifest["kind"], manifest["name"], row().fingerprint), record)
    return db.write(
        ws.database_url,
        lambda session: _from_row(ws, catalogue.add_artifact(session, row(), inputs)),
    )


def _from_row(ws: Workspace, row: tables.Artifact) -> Artifact:
    """Return a catalogue row as a value that outlives its session."""
    lines = {
        line.role: line.parent.fingerprint if line.parent else line.data for line in row.inputs
    }
    return Artifact(
        kind=Kind(row.kind),
        name=row.name,
        fingerprint=row.fingerprint,
        path=path_of(ws, row.kind, row.name, row.fingerprint),
        config=row.config,
        counts=row.counts,
        inputs={role: str(value) for role, value in lines.items()},
        size=row.size,
        n_files=row.n_files,
        dvc_md5=row.dvc_md5,
        created=row.created,
        run_id=row.run_id,
        removed=row.removed is not None,
    )


def _bring(
    ws: Workspace,
    artifact: Artifact,
    manifest: dict[str, Any],
    *,
    verify: bool,
    progress: Progress = silent,
) -> None:
    """See that an artifact's folder is here and sound, restoring it if not."""
    if not manifests.damage(artifact.path, manifest, verify=verify):
        return
    with locked(ws.state / "locks" / f"restore.{artifact.fingerprint[:DIGITS]}.lock"):
        damage = manifests.damage(artifact.path, manifest, verify=verify)
        if not damage:  # somebody else has just restored it
            return
        if artifact.path.exists():
            aside = move_aside(artifact.path, "damaged")
            log.warning("%s: %s; moved to %s, restoring", artifact.reference, damage, aside.name)
        versions.restore(ws, artifact.dvc_md5, artifact.path, progress)
        if damage := manifests.damage(artifact.path, manifest, verify=True):
            raise versions.StorageError(f"{artifact.reference} as restored: {damage}")


def _adopt(ws: Workspace, kind: Kind, fp: str) -> Artifact | None:
    """Finish what a publish killed after its rename left: verified, it goes into the catalogue."""
    for final in ws.artifacts.glob(f"{kind}/*/{fp[:DIGITS]}"):
        with locked(ws.state / "locks" / f"restore.{fp[:DIGITS]}.lock"):
            manifest = manifests.read(final)
            damage = manifests.damage(final, manifest, verify=True)
            if manifest is not None and not damage and manifest["fingerprint"] == fp:
                return _complete(ws, final, None)
            log.warning("%s: %s; moved to %s", final, damage, move_aside(final, "damaged"))
    return None


__all__ = [
    "Artifact",
    "BusyError",
    "checkout",
    "find",
    "fingerprint",
    "look_up",
    "path_of",
    "publish",
    "workdir",
]
