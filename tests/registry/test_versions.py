"""DVC behind versions.py: every object proved at the storage; DVC itself is the oracle."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from registry import objects, versions
from registry.environment import settings
from registry.workspace import Workspace


@pytest.fixture
def folder(ws: Workspace) -> Path:
    """Many small files, two of them alike, one empty, one in a folder, one of an odd name."""
    made = ws.artifacts / "tokens" / "n" / "f00d"
    (made / "sub").mkdir(parents=True)
    for i in range(30):
        (made / f"{i:02}.bin").write_bytes(bytes([i]) * 1000)
    (made / "twin.bin").write_bytes(bytes([7]) * 1000)
    (made / "empty").touch()
    (made / "sub" / "héllo wörld.txt").write_text("x")
    return made


def at_storage(ws: Workspace, md5: str) -> Path:
    return ws.state / "storage" / "files" / "md5" / md5[:2] / md5[2:]


def pushed(ws: Workspace, folder: Path) -> versions.Version:
    version = versions.snapshot(ws, folder)
    versions.push(ws, version.md5)
    return version


def same(one: Path, other: Path) -> bool:
    return subprocess.run(["diff", "-r", one, other]).returncode == 0


def test_dvc_itself_reads_what_we_stored(ws: Workspace, folder: Path) -> None:
    version = pushed(ws, folder)
    other = ws.root / "elsewhere"
    (other / ".dvc").mkdir(parents=True)
    (other / ".dvc" / "config").write_text(
        f"[core]\n    no_scm = true\n    remote = s\n"
        f"['remote \"s\"']\n    url = {ws.state / 'storage'}\n"
    )
    (other / "f00d.dvc").write_text(version.dvc_file)
    code = (
        "import shutil; from dvc.repo import Repo; repo = Repo(); repo.pull(['f00d.dvc']);"
        "shutil.copytree('f00d', 'again'); repo.add('again')"
    )
    command = [sys.executable, "-c", code]
    subprocess.run(command, cwd=other, env=os.environ | settings(ws), check=True)
    assert same(folder, other / "f00d")
    outs = yaml.safe_load((other / "again.dvc").read_text())["outs"]  # DVC's own hash
    assert outs == [yaml.safe_load(version.dvc_file)["outs"][0] | {"path": "again"}]


def test_push_finds_and_mends_a_missing_a_flipped_and_a_cut_object(
    ws: Workspace, folder: Path
) -> None:
    version = pushed(ws, folder)
    objects = sorted(p for p in (ws.state / "storage").rglob("*") if p.is_file())
    missing, flipped, cut = [p for p in objects if p.stat().st_size == 1000][:3]
    missing.unlink()
    for path, data in [(flipped, b"?" + flipped.read_bytes()[1:]), (cut, cut.read_bytes()[:-1])]:
        path.chmod(0o644)
        path.write_bytes(data)
        path.chmod(0o444)  # which DVC takes for "trusted"
    names = [path.parent.name + path.name for path in (missing, flipped, cut)]
    assert versions.verify(ws, version.md5) == dict(
        zip(names, ["missing", "damaged", "damaged"], strict=True)
    )
    versions.push(ws, version.md5)
    assert versions.verify(ws, version.md5) == {}


def test_push_does_not_believe_a_listing(ws: Workspace, folder: Path) -> None:
    # DVC takes a ".dir" at the remote for "all its files are there" and reports success.
    version = pushed(ws, folder)
    for path in (ws.state / "storage").rglob("*"):
        if path.is_file() and not path.name.endswith(".dir"):
            path.unlink()
    versions.push(ws, version.md5)
    assert versions.verify(ws, version.md5) == {}


def test_an_unprovable_push_fails_and_leaves_no_listing(
    ws: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = versions.snapshot(ws, folder)
    real = objects.upload
    lost = objects.md5_of(bytes([3]) * 1000)
    monkeypatch.setattr(
        objects,
        "upload",
        lambda a, b, oids, *_: real(a, b, [oid for oid in oids if oid != lost]),
    )
    with pytest.raises(versions.StorageError, match=f"32 of 33 objects .*{lost} missing") as caught:
        versions.push(ws, version.md5)
    assert str(ws.state / "storage") in str(caught.value)
    assert not at_storage(ws, version.md5).exists()


def test_snapshot_mends_a_cached_object_that_went_bad(ws: Workspace, folder: Path) -> None:
    version = versions.snapshot(ws, folder)
    (cached,) = (ws.state / "dvc").rglob(version.md5[2:])
    victim = next(p for p in cached.parent.parent.rglob("*") if p.is_file() and p != cached)
    victim.chmod(0o644)
    victim.write_bytes(b"rot")
    victim.chmod(0o444)
    assert versions.snapshot(ws, folder) == version
    versions.push(ws, version.md5)
    assert versions.verify(ws, version.md5) == {}


def test_restore_refuses_damage_and_leaves_nothing_half(ws: Workspace, folder: Path) -> None:
    version = pushed(ws, folder)
    for place in (ws.state / "storage", ws.state / "dvc"):
        for path in place.rglob("*"):
            if path.is_file() and path.stat().st_size == 1000:
                path.chmod(0o644)
                path.write_bytes(b"rot")
    with pytest.raises(versions.StorageError, match="missing or damaged in the storage"):
        versions.restore(ws, version.md5, ws.root / "back")
    assert not list(ws.root.glob("*back*"))


def test_restore_takes_the_cache_where_the_storage_is_damaged(ws: Workspace, folder: Path) -> None:
    version = pushed(ws, folder)
    for path in (ws.state / "storage").rglob("*"):
        if path.is_file():
            path.unlink()
    versions.restore(ws, version.md5, ws.root / "back")
    assert same(folder, ws.root / "back")
    with pytest.raises(FileExistsError):
        versions.restore(ws, version.md5, ws.root / "back")


def test_a_listing_that_escapes_is_refused(ws: Workspace) -> None:
    listing = b'[{"md5": "900150983cd24fb0d6963f7d28e17f72", "relpath": "../../evil"}]'
    md5 = objects.md5_of(listing) + ".dir"
    at_storage(ws, md5).parent.mkdir(parents=True)
    at_storage(ws, md5).write_bytes(listing)
    with pytest.raises(versions.StorageError, match="outside its folder"):
        versions.restore(ws, md5, ws.root / "back")


def test_the_projects_own_remote_is_used(ws: Workspace, folder: Path, tmp_path: Path) -> None:
    (ws.root / ".dvc").mkdir()
    (ws.root / ".dvc" / "config").write_text(
        f"[core]\n    no_scm = true\n['remote \"storage\"']\n    url = {tmp_path / 'far'}\n"
    )
    pushed(ws, folder)
    assert (tmp_path / "far" / "files" / "md5").is_dir()
    assert (ws.root / ".dvc" / "cache").is_dir()
    assert not (ws.state / "storage").exists()


def test_data_version_and_fingerprint(ws: Workspace) -> None:
    assert versions.data_version(ws) == "unpinned"
    (ws.root / "data.dvc").write_text("outs:\n- md5: 0123.dir\n  path: data\n")
    assert versions.data_version(ws) == "0123.dir"
    (ws.root / "data.dvc").write_text("outs: []\n")
    with pytest.raises(ValueError, match=r"data\.dvc is not a DVC pointer"):
        versions.data_version(ws)
    (ws.data / "web").mkdir(parents=True)
    (ws.data / "web" / "a").write_text("1")
    (ws.data / "b").write_text("2")
    first = versions.data_fingerprint(ws, [ws.data / "web", ws.data / "b"])
    assert first == versions.data_fingerprint(ws, [Path("data/b"), Path("data/web/a")])
    (ws.data / "b").write_text("3")
    assert first != versions.data_fingerprint(ws, [ws.data / "web", ws.data / "b"])
    with pytest.raises(FileNotFoundError, match="dvc pull"):
        versions.data_fingerprint(ws, [Path("data/none")])
