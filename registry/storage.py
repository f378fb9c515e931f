"""Whether the storage remote can be used, and whether it still holds what the catalogue counts on.

Looks at names only: `versions.verify` hashes the bytes of one version.
"""

import os
import secrets
from typing import Any

from registry import catalogue, db, objects
from registry.objects import StorageError
from registry.workspace import Workspace


def probe(ws: Workspace) -> str:
    """Write, read and remove a small object in the storage; return where that is.

    Raises:
        StorageError: it cannot be reached, or not be written to.
    """
    remote = objects.remote(ws)
    path = remote.fs.join(remote.path, f"probe-{os.getpid()}")
    written = secrets.token_bytes(16)
    try:
        remote.fs.makedirs(remote.path, exist_ok=True)
        with remote.fs.open(path, "wb") as file:
            file.write(written)
        with remote.fs.open(path, "rb") as file:
            read = file.read()
        remote.fs.remove(path)
    except Exception as error:  # every kind of remote has exceptions of its own
        raise StorageError(f"{remote.path}: {type(error).__name__}: {error}") from error
    if read != written:
        raise StorageError(f"{remote.path} gave back other bytes than it was given")
    return str(remote.path)


def missing(ws: Workspace) -> dict[str, int]:
    """Return {fingerprint: how many objects the storage lacks} of all that gc has not given up."""
    remote = objects.remote(ws)
    there = set(remote.all()) if remote.fs.exists(remote.path) else set()
    with db.reading(ws.database_url) as session:
        rows = catalogue.list_artifacts(session, limit=None)
    kept = [row for row in rows if row.removed is None]
    lacking = {row.fingerprint: _lacking(remote, row.dvc_md5, there) for row in kept}
    return {fingerprint: count for fingerprint, count in lacking.items() if count}


def _lacking(remote: Any, md5: str, there: set[str]) -> int:
    """Count a version's objects that are not there; one if not even its listing is."""
    if md5 not in there:
        return 1
    return sum(oid not in there for oid in objects.members([remote], md5))
