"""DVC, behind one door: snapshot a directory, push it and prove it, restore it by hash.

Only DVC's stable parts are used: its config files, its remote file systems (local, S3, ...) and
its object layout, so `dvc pull` with the `.dvc` text from the catalogue brings the same bytes.
Its index and state databases are not: a killed `dvc push` leaves an index that makes the next
push report success with objects missing, cached objects are trusted by their file mode alone,
and the state is a pickle in /var/tmp. Here every object is hashed again where it lies.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from registry import db, lineage
from registry.files import digest, fsync, fsync_tree, list_files, locked, write_whole
from registry.workspace import Workspace

log = logging.getLogger(__name__)

REMOTE = "storage"
CHUNK = 2**20
THREADS = 8
UNPINNED = "unpinned"


class StorageError(ValueError):
    """Bytes are missing or damaged in the storage; the message says which."""


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
    md5 = _md5(listing) + ".dir"
    note = ws.state / "tmp" / md5
    note.parent.mkdir(exist_ok=True)
    with _storage_lock(ws):
        write_whole(note, listing)
        cache = _cache(ws)
        _fill(cache, sources)
        _fill(cache, {md5: note})
        note.unlink()
    outs = [{"md5": md5, "size": size, "nfiles": len(files), "hash": "md5", "path": path.name}]
    return Version(md5, size, len(files), yaml.safe_dump({"outs": outs}, sort_keys=False))


def push(ws: Workspace, version: Version) -> None:
    """Copy a version from the cache to the storage, and hash every object there again.

    Raises:
        StorageError: after two tries the storage still lacks some objects or holds bad ones.
    """
    cache, remote = _cache(ws), _remote(ws)
    with _storage_lock(ws):
        oids = [*dict.fromkeys(oid for _, oid in _entries([cache], version.md5)), version.md5]
        for _ in range(2):
            bad = _bad(remote, oids)
            if not bad:
                break
            # The listing says "all there" to DVC, so it goes first and comes back last.
            _remove(remote, [version.md5, *bad])
            _upload(cache, remote, [oid for oid in oids if oid in bad and oid != version.md5])
            _upload(cache, remote, [version.md5])
        bad = _bad(remote, oids)
        if bad:
            _remove(remote, [version.md5])
            raise StorageError(_describe(ws, version.md5, bad, len(oids)))
        _make_durable(remote, oids)


def verify(ws: Workspace, md5: str) -> dict[str, str]:
    """Hash every object of a version in the storage; return {object: missing|damaged}."""
    remote = _remote(ws)
    if bad := _bad(remote, [md5]):
        return bad
    return _bad(remote, [oid for _, oid in _entries([remote], md5)])


def restore(ws: Workspace, md5: str, target: Path) -> None:
    """Bring a version's directory back from the storage, whole and verified, or not at all.

    Raises:
        StorageError: an object is missing or damaged in the storage, and in the cache.
        FileExistsError: the target is there already.
    """
    if target.exists():
        raise FileExistsError(f"{target} is there already; move it away to restore it")
    places = [_remote(ws), _cache(ws)]
    entries = _entries(places, md5)
    temporary = target.with_name(f".{target.name}.restore-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for relative, _ in entries:
            (temporary / relative).parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda entry: _fetch(places, entry[1], temporary / entry[0]), entries))
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


# The DVC side: where objects lie. An odb ("object database") is DVC's word for a cache or remote.


def _config(ws: Workspace) -> Any:
    """Read the project's DVC config, or that of a repository of our own inside .textmill."""
    from dvc.config import Config

    folder = ws.root / ".dvc"
    if not folder.is_dir():
        folder = ws.state / "dvc" / ".dvc"
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "config").exists():
            write_whole(folder / "config", b"[core]\n    no_scm = true\n    analytics = false\n")
    config = Config(str(folder))
    if REMOTE not in config["remote"]:
        config["remote"][REMOTE] = {"url": str(ws.state / "storage")}
    return config


def _remote(ws: Workspace) -> Any:
    """Return the storage as a DVC object database."""
    from dvc.fs import get_cloud_fs
    from dvc_data.hashfile.db import get_odb

    kind, settings, path = get_cloud_fs(_config(ws), name=REMOTE)
    files = kind(**settings)
    return get_odb(files, files.join(path, "files", "md5"), hash_name="md5")


def _cache(ws: Workspace) -> Any:
    """Return the local DVC cache as an object database."""
    from dvc.fs import LocalFileSystem
    from dvc_data.hashfile.db import get_odb

    config = _config(ws)
    folder = config["cache"].get("dir") or Path(config.dvc_dir) / "cache"
    return get_odb(LocalFileSystem(), str(Path(folder) / "files" / "md5"), hash_name="md5")


def _storage_lock(ws: Workspace) -> Any:
    """Let one process at a time change the cache and the storage."""
    return locked(ws.state / "locks" / "storage.lock")


def _md5(data: bytes) -> str:
    """Return DVC's hash of some bytes."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _entries(places: Sequence[Any], md5: str) -> list[tuple[PurePosixPath, str]]:
    """Read a version's listing: (relative path, object) per file, refusing paths that escape."""
    from dvc_data.hashfile.tree import Tree
    from dvc_objects.errors import ObjectFormatError

    for odb in places:
        if _bad(odb, [md5]):
            continue
        with odb.fs.open(odb.oid_to_path(md5), "rb") as file:
            listing = json.load(file)
        try:
            tree = Tree.from_list(listing, hash_name="md5")
        except (ObjectFormatError, KeyError, TypeError) as error:
            raise StorageError(f"{md5} is not a DVC listing: {error}") from None
        for key, _, _ in tree:
            if any(part in ("", ".", "..") or "/" in part for part in key):
                raise StorageError(f"{md5} lists a path outside its folder: {'/'.join(key)!r}")
        return [(PurePosixPath(*key), str(info.value)) for key, _, info in tree]
    raise StorageError(f"the listing {md5} is missing or damaged in the storage {places[0].path}")


def _hash(odb: Any, oid: str) -> str | None:
    """Hash an object where it lies; None if it is not there."""
    state = hashlib.md5(usedforsecurity=False)
    try:
        with odb.fs.open(odb.oid_to_path(oid), "rb") as file:
            while chunk := file.read(CHUNK):
                state.update(chunk)
    except FileNotFoundError:
        return None
    return state.hexdigest()


def _bad(odb: Any, oids: Sequence[str]) -> dict[str, str]:
    """Hash objects where they lie; return those that are not what they should be."""
    with ThreadPoolExecutor(THREADS) as pool:
        found = dict(zip(oids, pool.map(lambda oid: _hash(odb, oid), oids), strict=True))
    return {
        oid: "missing" if md5 is None else "damaged"
        for oid, md5 in found.items()
        if md5 != oid.removesuffix(".dir")
    }


def _remove(odb: Any, oids: Iterable[str]) -> None:
    """Remove objects, if they are there."""
    for oid in oids:
        try:
            odb.fs.remove(odb.oid_to_path(oid))
        except FileNotFoundError:
            continue


def _fill(odb: Any, sources: dict[str, Path]) -> None:
    """Copy files in as objects, where the object is not there or is bad."""
    bad = _bad(odb, list(sources))
    _remove(odb, [oid for oid, how in bad.items() if how == "damaged"])
    if bad:
        from dvc.fs import LocalFileSystem

        odb.add([str(sources[oid]) for oid in bad], LocalFileSystem(), list(bad), hardlink=False)


def _upload(source: Any, target: Any, oids: list[str]) -> None:
    """Copy objects from one database to another (DVC writes them under a temporary name)."""
    present = [oid for oid in oids if source.exists(oid)]
    if present:
        paths = [source.oid_to_path(oid) for oid in present]
        target.add(paths, source.fs, present, hardlink=False, check_exists=False)


def _fetch(places: Sequence[Any], oid: str, target: Path) -> None:
    """Copy one object to a file from the first place that holds it undamaged."""
    for odb in places:
        if odb.exists(oid):
            odb.fs.get_file(odb.oid_to_path(oid), str(target))
            target.chmod(0o644)  # objects are read-only where they lie
            if digest(target, "md5") == oid:
                return
            log.warning("object %s of %s is damaged at %s", oid, target.name, odb.path)
    raise StorageError(
        f"{target.name}: object {oid} is missing or damaged in the storage {places[0].path}; "
        "bring it back from a backup of that place"
    )


def _make_durable(odb: Any, oids: Iterable[str]) -> None:
    """Flush a local storage's objects and names to the disk."""
    if odb.fs.protocol != "local":
        return
    paths = [Path(odb.oid_to_path(oid)) for oid in oids]
    for path in [*paths, *{path.parent for path in paths}, Path(odb.path)]:
        fsync(path)


def _describe(ws: Workspace, md5: str, bad: dict[str, str], total: int) -> str:
    """Say what a push could not prove."""
    shown = ", ".join(f"{oid} {how}" for oid, how in list(bad.items())[:5])
    more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
    return (
        f"{total - len(bad)} of {total} objects of {md5} verified at {_remote(ws).path}; "
        f"bad: {shown}{more}. Check that place (space, rights), then run the same step again"
    )
