"""Where bytes lie as DVC's objects, each hashed again in its place before it is believed.

An odb ("object database") is DVC's word for a cache or a remote. Only DVC's stable parts are used:
its config files, its remote file systems (local, S3, ...) and its object layout.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from registry.files import digest, fsync_all, locked, write_whole
from registry.workspace import Workspace

log = logging.getLogger(__name__)

REMOTE = "storage"
CHUNK = 2**20
THREADS = 8

Progress = Callable[[int, int, str], None]
"""progress(done, total, what is being done)"""


class StorageError(ValueError):
    """Bytes are missing or damaged in the storage; the message says which."""


def silent(done: int, total: int, note: str) -> None:
    """Tell nobody."""


def place(ws: Workspace) -> tuple[Any, str]:
    """Return the storage's file system and the path of its root there."""
    from dvc.fs import get_cloud_fs

    kind, settings, path = get_cloud_fs(_config(ws), name=REMOTE)
    try:
        return kind(**settings), path
    except ImportError as error:  # DVC names the package that it wants
        raise StorageError(f"the storage {path} needs another package: {error}") from None


def remote(ws: Workspace) -> Any:
    """Return the storage as an object database."""
    from dvc_data.hashfile.db import get_odb

    files, path = place(ws)
    return get_odb(files, files.join(path, "files", "md5"), hash_name="md5")


def cache(ws: Workspace) -> Any:
    """Return the local DVC cache as an object database."""
    from dvc.fs import LocalFileSystem
    from dvc_data.hashfile.db import get_odb

    config = _config(ws)
    folder = config["cache"].get("dir") or Path(config.dvc_dir) / "cache"
    return get_odb(LocalFileSystem(), str(Path(folder) / "files" / "md5"), hash_name="md5")


def storage_lock(ws: Workspace) -> Any:
    """Let one process at a time change the cache and the storage."""
    return locked(ws.state / "locks" / "storage.lock")


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


def md5_of(data: bytes) -> str:
    """Return DVC's hash of some bytes."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def entries(places: Sequence[Any], md5: str) -> list[tuple[PurePosixPath, str]]:
    """Read a version's listing: (relative path, object) per file, from the first sound one.

    Raises:
        StorageError: no place has it undamaged, or a path in it would escape its folder.
    """
    from dvc_data.hashfile.tree import Tree
    from dvc_objects.errors import ObjectFormatError

    for odb in places:
        if find_bad(odb, [md5]):
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


def members(places: Sequence[Any], md5: str) -> list[str]:
    """Return a version's objects, its listing last."""
    return [*dict.fromkeys(oid for _, oid in entries(places, md5)), md5]


def find_bad(
    odb: Any, oids: Iterable[str], progress: Progress = silent, note: str = "verifying"
) -> dict[str, str]:
    """Hash objects where they lie; return {object: missing|damaged} of those that are not right."""
    wanted, bad = list(oids), {}
    with ThreadPoolExecutor(THREADS) as pool:
        hashes = pool.map(lambda oid: _hash(odb, oid), wanted)
        for done, (oid, md5) in enumerate(zip(wanted, hashes, strict=True), 1):
            if md5 != oid.removesuffix(".dir"):
                bad[oid] = "missing" if md5 is None else "damaged"
            progress(done, len(wanted), note)
    return bad


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


def sizes(odb: Any, oids: Iterable[str]) -> dict[str, int]:
    """Return how many bytes those objects have that are there."""

    def size(oid: str) -> int | None:
        try:
            return int(odb.fs.size(odb.oid_to_path(oid)))
        except FileNotFoundError:
            return None

    wanted = list(oids)
    with ThreadPoolExecutor(THREADS) as pool:
        found = zip(wanted, pool.map(size, wanted), strict=True)
        return {oid: n_bytes for oid, n_bytes in found if n_bytes is not None}


def remove(odb: Any, oids: Iterable[str]) -> None:
    """Remove objects, if they are there."""
    for oid in oids:
        try:
            odb.fs.remove(odb.oid_to_path(oid))
        except FileNotFoundError:
            continue


def fill(odb: Any, sources: dict[str, Path]) -> None:
    """Copy files in as objects, where the object is not there or is bad."""
    from dvc.fs import LocalFileSystem

    bad = find_bad(odb, sources)
    remove(odb, [oid for oid, how in bad.items() if how == "damaged"])
    if bad:
        odb.add([str(sources[oid]) for oid in bad], LocalFileSystem(), list(bad), hardlink=False)


def upload(source: Any, target: Any, oids: Sequence[str], progress: Progress = silent) -> None:
    """Copy objects from one database to another (DVC writes them under a temporary name)."""
    for begin in range(0, len(oids), 100):  # so that progress is seen
        batch = oids[begin : begin + 100]
        paths = [source.oid_to_path(oid) for oid in batch]
        target.add(paths, source.fs, list(batch), hardlink=False, check_exists=False)
        progress(begin + len(batch), len(oids), "copying")


def fetch(places: Sequence[Any], oid: str, target: Path) -> None:
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
        "bring it back from a backup of that place, or `textmill push` where a copy is"
    )


def make_durable(odb: Any, oids: Iterable[str]) -> None:
    """Flush a local storage's objects and names to the disk."""
    if odb.fs.protocol != "local":
        return
    paths = [Path(odb.oid_to_path(oid)) for oid in oids]
    fsync_all(paths)
    fsync_all({path.parent for path in paths} | {Path(odb.path)})
