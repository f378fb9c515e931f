"""DVC, behind one door: snapshot a directory, push it and prove it, restore it by hash.

`dvc pull` with the `.dvc` text from the catalogue brings the same bytes. DVC's index and state
databases are not used: a killed `dvc push` leaves an index that makes the next push report success
with objects missing, cached objects are trusted by their file mode alone, and the state is a pickle
in /var/tmp. Here every object is hashed again where it lies (objects.py).
"""

import hashlib
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml

from registry import db, lineage, objects
from registry.files import digest, fsync, fsync_tree, list_files, write_whole
from registry.objects import Progress, StorageError, silent
from registry.workspace import Workspace

UNPINNED = "unpinned"


@dataclass(frozen=True)
class Version:
    """One directory's bytes, by hash."""

    md5: str  # "<32 hex digits>.dir"
    size: int  # bytes
    n_files: int
    dvc_file: str  # the text of the directory's .dvc file


def snapshot(ws: Workspace, path: Path) -> Version:
    """Put a directory into the DVC cache, mending cached objects that went bad."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.meta import Meta
    from dvc_data.hashfile.tree import Tree

    tree, sources, size = Tree(), {}, 0
    files = list_files(path)
    for file in files:
        md5 = digest(file, "md5")
        n_bytes = file.stat().st_size
        tree.add(file.relative_to(path).parts, Meta(size=n_bytes), HashInfo("md5", md5))
        sources[md5] = file
        size += n_bytes
    listing: bytes = tree.as_bytes()
    md5 = objects.md5_of(listing) + ".dir"
    note = ws.state / "tmp" / md5
    note.parent.mkdir(exist_ok=True)
    with objects.storage_lock(ws):
        write_whole(note, listing)
        cache = objects.cache(ws)
        objects.fill(cache, sources)
        objects.fill(cache, {md5: note})
        note.unlink()
    outs = [{"md5": md5, "size": size, "nfiles": len(files), "hash": "md5", "path": path.name}]
    return Version(md5, size, len(files), yaml.safe_dump({"outs": outs}, sort_keys=False))


def push(ws: Workspace, md5: str, progress: Progress = silent) -> dict[str, str]:
    """Prove every object of a version at the storage; copy those that fail from the cache.

    Returns:
        What was not there, or not right, before: {object: missing|damaged}.

    Raises:
        StorageError: after two tries the storage still lacks some objects or holds bad ones.
    """
    cache, remote = objects.cache(ws), objects.remote(ws)
    with objects.storage_lock(ws):
        oids = objects.members([cache, remote], md5)
        found = bad = objects.find_bad(remote, oids, progress)
        for _ in range(2):
            lacking = objects.find_bad(cache, bad)
            sound = [oid for oid in bad if oid not in lacking]
            if not sound:
                break
            _replace(cache, remote, md5, sound, progress)
            bad = objects.find_bad(remote, oids, progress)
        if bad:
            if not objects.find_bad(cache, [md5]):  # it would tell DVC that all is there
                objects.remove(remote, [md5])
            raise StorageError(_describe(remote.path, md5, bad, len(oids)))
        objects.make_durable(remote, oids)
    return found


def _replace(cache: object, remote: object, md5: str, sound: list[str], progress: Progress) -> None:
    """Copy good objects over bad ones; the listing goes first and comes back last.

    The listing says "all there" to DVC.
    """
    objects.remove(remote, [md5, *sound])
    objects.upload(cache, remote, [oid for oid in sound if oid != md5], progress)
    if not objects.find_bad(cache, [md5]):
        objects.upload(cache, remote, [md5])


def verify(ws: Workspace, md5: str, progress: Progress = silent) -> dict[str, str]:
    """Hash every object of a version in the storage; return {object: missing|damaged}."""
    remote = objects.remote(ws)
    try:
        oids = objects.members([remote, objects.cache(ws)], md5)
    except StorageError:
        return objects.find_bad(remote, [md5])
    return objects.find_bad(remote, oids, progress)


def restore(ws: Workspace, md5: str, target: Path, progress: Progress = silent) -> None:
    """Bring a version's directory back from the storage, whole and verified, or not at all.

    Raises:
        StorageError: an object is missing or damaged in the storage, and in the cache.
        FileExistsError: the target is there already.
    """
    if target.exists():
        raise FileExistsError(f"{target} is there already; move it away to restore it")
    places = [objects.remote(ws), objects.cache(ws)]
    entries = objects.entries(places, md5)
    temporary = target.with_name(f".{target.name}.restore-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for relative, _ in entries:
            (temporary / relative).parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(objects.THREADS) as pool:
            copies = pool.map(
                lambda entry: objects.fetch(places, entry[1], temporary / entry[0]), entries
            )
            for done, _ in enumerate(copies, 1):
                progress(done, len(entries), "fetching")
        fsync_tree(temporary)
        temporary.rename(target)
        fsync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def data_version(ws: Workspace) -> str:
    """Return the md5 that data.dvc pins, or "unpinned" where there is no data.dvc."""
    pointer = ws.root / "data.dvc"
    if not pointer.is_file():
        return UNPINNED
    try:
        return str(yaml.safe_load(pointer.read_text())["outs"][0]["md5"])
    except (yaml.YAMLError, KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"{pointer} is not a DVC pointer ({error}); restore it with `git checkout data.dvc`"
        ) from None


def data_fingerprint(ws: Workspace, paths: Iterable[Path]) -> str:
    """Return one hash of input files and folders: their names relative to the root, their bytes.

    The catalogue remembers which files it was.

    Raises:
        FileNotFoundError: a path is not there.
    """
    rows: dict[str, tuple[str, int]] = {}
    for path in paths:
        path = path if path.is_absolute() else ws.root / path
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there; bring the data with `dvc pull`")
        base = ws.root if path.is_relative_to(ws.root) else path.parent
        for file in [path] if path.is_file() else list_files(path):
            rows[file.relative_to(base).as_posix()] = digest(file), file.stat().st_size
    text = "".join(f"{name}\0{value}\n" for name, (value, _) in sorted(rows.items()))
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    _note(ws, fingerprint, rows)
    return fingerprint


def _note(ws: Workspace, fingerprint: str, files: dict[str, tuple[str, int]]) -> None:
    """Record once which files a fingerprint stands for, so that lineage can be asked by file."""
    with db.reading(ws.database_url) as session:
        known = lineage.knows_inputs(session, fingerprint)
    if not known:
        db.write(ws.database_url, lambda session: lineage.note_inputs(session, fingerprint, files))


def _describe(place: str, md5: str, bad: dict[str, str], total: int) -> str:
    """Say what a push could not prove."""
    shown = ", ".join(f"{oid} {how}" for oid, how in list(bad.items())[:5])
    more = f" and {len(bad) - 5:,} more" if len(bad) > 5 else ""
    return (
        f"{total - len(bad):,} of {total:,} objects of {md5} verified at {place}; "
        f"bad: {shown}{more}. "
        "This version is LOCAL ONLY: check that place (space, rights), then retry: textmill push"
    )


__all__ = [
    "StorageError",
    "Version",
    "data_fingerprint",
    "data_version",
    "push",
    "restore",
    "snapshot",
    "verify",
]
