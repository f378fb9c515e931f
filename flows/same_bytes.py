"""Whether an artifact that was made again has the bytes of the first time, and if not, why."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry import catalogue, db, manifests, provenance, versions
from registry.artifacts import Artifact
from registry.workspace import Workspace


@dataclass(frozen=True)
class Comparison:
    """What came of making one artifact again."""

    reference: str
    same: list[str]  # files, byte for byte
    differing: dict[str, str] = field(default_factory=dict)  # file -> how
    circumstances: dict[str, str] = field(default_factory=dict)  # what is not as it was then
    folder: Path | None = None  # what was made, kept where it differs
    refused: str = ""  # why it could not be made again

    @property
    def equal(self) -> bool:
        """Whether every file is the same."""
        return not self.differing and not self.refused


def compare(workspace: Workspace, target: Artifact, folder: Path) -> Comparison:
    """Compare what was made with the manifest; keep it only where it differs."""
    row = provenance_of(workspace, target)
    then, now = row["files"], manifests.hash_files(folder / "out")
    same = [name for name in sorted(then) if now.get(name) == then[name]]
    differing = {
        name: _how(then.get(name), now.get(name))
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    }
    kept = folder.with_name(f"{folder.name}.differs")
    shutil.rmtree(kept, ignore_errors=True)
    if not differing:
        shutil.rmtree(folder)
        return Comparison(target.reference, same)
    folder.rename(kept)
    return Comparison(
        target.reference, same, differing, changes(workspace, row), folder=kept / "out"
    )


def _how(then: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    """Say how a file differs."""
    if then is None or now is None:
        return "was not there then" if then is None else "is missing now"
    told = (f"{file['size']:,} bytes {file['sha256'][:12]}" for file in (then, now))
    return " then, ".join(told) + " now"


def changes(workspace: Workspace, row: Mapping[str, Any]) -> dict[str, str]:
    """Return what is not as it was when an artifact was made: code, libraries, data."""
    now = {
        "code": provenance.code_version(),
        "commit": provenance.git_commit(workspace.root),
        "data": versions.data_version(workspace),
        **provenance.library_versions(),
    }
    then = {
        "code": row["code_version"],
        "commit": row["git_commit"],
        "data": row["data_version"],
        **row.get("libraries", {}),
    }
    return {
        name: f"{then.get(name, 'none')} then, {now.get(name, 'none')} now"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    }


def provenance_of(workspace: Workspace, target: Artifact) -> dict[str, Any]:
    """Return an artifact's manifest, from the catalogue."""
    with db.reading(workspace.database_url) as session:
        row = catalogue.find_artifact(session, target.fingerprint)
        assert row is not None
        return dict(row.manifest)
