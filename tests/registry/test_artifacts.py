"""Publish and checkout: what a kill leaves, what two runs do, what a person types."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from registry import artifacts, catalogue, db, files, manifests, objects, references, versions
from registry.workspace import Workspace

FORK = multiprocessing.get_context("fork")


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows(ws: Workspace) -> list:
    with db.reading(ws.database_url) as session:
        return catalogue.list_artifacts(session)


def test_fingerprint_is_stable_and_complete() -> None:
    base = artifacts.fingerprint("tokens", {"a": 1, "b": [1, 2]}, {"x": "1", "y": "2"}, 1)
    # Written down: a change of this value makes every artifact of every user anew.
    assert base == "aef30e59fcd919432a2ccbbc597f038cef33d157b98c02c0b212e928c12ef8cb"
    assert base == artifacts.fingerprint("tokens", {"b": [1, 2], "a": 1}, {"y": "2", "x": "1"}, 1)
    others = [
        artifacts.fingerprint("links", {"a": 1, "b": [1, 2]}, {"x": "1", "y": "2"}, 1),
        artifacts.fingerprint("tokens", {"a": 1, "b": [2, 1]}, {"x": "1", "y": "2"}, 1),
        artifacts.fingerprint("tokens", {"a": 1, "b": [1, 2]}, {"x": "1", "y": "3"}, 1),
        artifacts.fingerprint("tokens", {"a": 1, "b": [1, 2]}, {"x": "1", "y": "2"}, 2),
    ]
    assert len({base, *others}) == 5
    with pytest.raises(ValueError, match="not a valid Kind"):
        artifacts.fingerprint("nonsense", {}, {}, 1)


def test_publish_then_find(ws: Workspace, make) -> None:
    made = make(ws)
    assert make(ws) == made == artifacts.find(ws, "tokens", made.fingerprint, verify=True)
    manifest = json.loads((made.path / "manifest.json").read_text())
    assert manifest["files"]["sub/b.json"] == {
        "size": 2,
        "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",  # of "{}"
    }
    assert manifest["inputs"] == {"data": {"data": "d" * 64}}
    assert manifest["code_version"] and manifest["libraries"]["numpy"]
    assert len(rows(ws)) == 1
    assert not made.path.with_name(made.path.name + ".work").exists()


def test_manifest_does_not_depend_on_when_and_who(ws: Workspace, make, tmp_path: Path) -> None:
    other = Workspace.open(Path(shutil.copytree(tmp_path, tmp_path.with_name("other"))))
    assert tree(make(ws).path) == tree(make(other).path)


# Where a publish can be killed: (module, function, before or after it).
POINTS = [
    (manifests, "write", "before"),
    (manifests, "write", "after"),
    (artifacts, "fsync_tree", "before"),
    (artifacts, "_rename", "before"),
    (artifacts, "_rename", "after"),
    (versions, "snapshot", "after"),
    (objects, "fill", "after"),
    (objects, "upload", "before"),
    (objects, "upload", "after"),
    (versions, "push", "after"),
    (catalogue, "add_artifact", "before"),
    (catalogue, "add_artifact", "after"),
]


@pytest.mark.parametrize(
    ("module", "name", "when"), POINTS, ids=lambda x: getattr(x, "__name__", x)
)
def test_a_kill_anywhere_leaves_what_the_next_run_completes(
    ws: Workspace, make, monkeypatch: pytest.MonkeyPatch, module, name: str, when: str
) -> None:
    real = getattr(module, name)

    def killed(*arguments, **named):
        if when == "after":
            real(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    def run() -> None:
        setattr(module, name, killed)
        make(ws)

    child = FORK.Process(target=run)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert rows(ws) == []  # never in the catalogue before it is whole

    made = make(ws)
    assert [row.fingerprint for row in rows(ws)] == [made.fingerprint]
    assert tree(made.path).keys() == {"a.bin", "sub/b.json", "manifest.json"}
    assert versions.verify(ws, made.dvc_md5) == {}
    assert made.inputs == {"data": "d" * 64}
    assert [path.name for path in made.path.parent.iterdir()] == [made.path.name]


def test_work_of_a_killed_try_is_continued(ws: Workspace) -> None:
    fp = artifacts.fingerprint("tokens", {}, {}, 1)
    with pytest.raises(RuntimeError), artifacts.workdir(ws, "tokens", "n", fp) as work:
        (work / "part.bin").write_bytes(b"1")
        (work / ".b.bin.77.tmp").write_bytes(b"half")
        raise RuntimeError
    with artifacts.workdir(ws, "tokens", "n", fp) as again:
        assert (again / "part.bin").read_bytes() == b"1"
        made = artifacts.publish(
            ws, again, kind="tokens", name="n", fingerprint=fp, config={}, inputs={}, counts={}
        )
    assert tree(made.path).keys() == {"part.bin", "manifest.json"}


def test_bit_rot_after_a_killed_publish_is_not_adopted(ws: Workspace, make, monkeypatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(versions, "snapshot", lambda *a: (_ for _ in ()).throw(RuntimeError))
        make(ws)
    (final,) = ws.artifacts.glob("tokens/sample/*")
    (final / "a.bin").write_bytes(b"abX" * 1000)
    made = make(ws)
    assert (made.path / "a.bin").read_bytes() == b"abc" * 1000
    assert [path.name for path in made.path.parent.glob("*.damaged-*")]


def test_bytes_come_back_from_the_storage_alone(ws: Workspace, make) -> None:
    made = make(ws)
    before = tree(made.path)
    shutil.rmtree(ws.artifacts)
    shutil.rmtree(ws.state / "dvc")
    assert artifacts.checkout(ws, "tokens/sample") == made
    assert tree(made.path) == before


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "add", "manifest"])
def test_a_damaged_folder_is_moved_aside_and_restored(ws: Workspace, make, damage: str) -> None:
    made = make(ws)
    before = tree(made.path)
    file = made.path / "a.bin"
    match damage:
        case "flip":
            file.write_bytes(b"X" + file.read_bytes()[1:])
        case "truncate":
            os.truncate(file, 5)
        case "remove":
            file.unlink()
        case "add":
            (made.path / "extra").write_text("?")
        case "manifest":
            (made.path / "manifest.json").write_text("{}")
    assert artifacts.find(ws, "tokens", made.fingerprint, verify=damage == "flip") == made
    assert tree(made.path) == before
    assert len(list(made.path.parent.glob("*.damaged-*"))) == 1


def test_lost_bytes_are_an_error_that_names_them(ws: Workspace, make) -> None:
    made = make(ws)
    shutil.rmtree(ws.artifacts)
    shutil.rmtree(ws.state / "dvc")
    shutil.rmtree(ws.state / "storage")
    with pytest.raises(versions.StorageError, match=made.dvc_md5):
        artifacts.find(ws, "tokens", made.fingerprint)


def test_the_second_of_two_runs_is_told_who_holds_it(ws: Workspace) -> None:
    fp = artifacts.fingerprint("tokens", {}, {}, 1)
    code = (
        "import sys, time; from pathlib import Path; from registry import artifacts;"
        "from registry.workspace import Workspace; ws = Workspace.open(Path(sys.argv[1]))\n"
        "with artifacts.workdir(ws, 'tokens', 'n', sys.argv[2]): print('held', flush=True); "
        "time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(ws.root), fp]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdout.readline() == b"held\n"
        wanted = rf"tokens.n.{fp[:16]} is held by pid {other.pid} on .* since 20"
        with (
            pytest.raises(artifacts.BusyError, match=wanted),
            artifacts.workdir(ws, "tokens", "n", fp),
        ):
            pass
        other.kill()
        with artifacts.workdir(ws, "tokens", "n", fp, wait=True):  # a kill frees the lock
            pass


def test_racing_runs_make_one_artifact(ws: Workspace, make) -> None:
    results = FORK.SimpleQueue()

    def race() -> None:
        try:
            results.put(make(ws).fingerprint)
        except artifacts.BusyError:
            results.put("busy")

    workers = [FORK.Process(target=race) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = {results.get() for _ in workers}
    (row,) = rows(ws)
    assert row.fingerprint in found <= {row.fingerprint, "busy"}
    assert versions.verify(ws, row.dvc_md5) == {}


@pytest.mark.parametrize("name", ["", "../x", ".hidden", "A", "a/b", "x" * 101, "ä", "a\n"])
def test_names_that_could_escape_are_refused(ws: Workspace, name: str) -> None:
    with (
        pytest.raises(ValueError, match="not allowed"),
        artifacts.workdir(ws, "tokens", name, "0" * 64),
    ):
        pass


def test_links_are_not_published(ws: Workspace, tmp_path: Path) -> None:
    fp = artifacts.fingerprint("tokens", {}, {}, 1)
    with artifacts.workdir(ws, "tokens", "n", fp) as work:
        (work / "out").symlink_to("/etc/passwd")
        with pytest.raises(ValueError, match="plain files and folders only"):
            artifacts.publish(
                ws, work, kind="tokens", name="n", fingerprint=fp, config={}, inputs={}, counts={}
            )


def test_an_empty_catalogue_says_so(ws: Workspace) -> None:
    with pytest.raises(ValueError, match="catalogue is empty: run a flow first"):
        artifacts.checkout(ws, "tokens/sample")


@pytest.mark.parametrize(
    ("reference", "wanted"),
    [
        ("tokens/other", "no artifact tokens/other. There is: tokens/sample@"),
        ("tokens/sample@0000ffff", "no artifact tokens/sample@0000ffff"),
        ("textmill-x@champion", "no model textmill-x@champion"),
        ("textmill-x/7", "no model textmill-x/7"),
        ("../../etc", "is not a reference"),
        ("", "is not a reference"),
    ],
)
def test_unknown_references_list_what_there_is(
    ws: Workspace, make, reference: str, wanted: str
) -> None:
    make(ws)
    with pytest.raises(ValueError, match=wanted) as caught:
        artifacts.checkout(ws, reference)
    assert "tokens/sample@" in str(caught.value)


def test_references(ws: Workspace, make) -> None:
    old, new = make(ws, config={"n": 1}), make(ws, config={"n": 2})
    assert artifacts.checkout(ws, "tokens/sample") == new
    assert artifacts.checkout(ws, old.reference) == old
    assert artifacts.checkout(ws, old.fingerprint[:10]) == old
    with (
        pytest.raises(ValueError, match=r"means 2 artifacts: .*Give more digits"),
        db.reading(ws.database_url) as session,
    ):
        references._only(session, "ab", catalogue.list_artifacts(session))


def test_files_are_flushed_before_they_are_named(ws: Workspace, make, monkeypatch) -> None:
    events: list[str] = []
    for module, name in [(artifacts, "fsync_tree"), (artifacts, "_rename"), (files, "fsync")]:
        real = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, n=name, r=real: (events.append(f"{n} {a[0].name}"), r(*a))[1]
        )
    make(ws)
    first = next(i for i, event in enumerate(events) if event.startswith("_rename"))
    assert {"fsync a.bin", "fsync b.json", "fsync manifest.json"} <= set(events[:first])
