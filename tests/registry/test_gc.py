"""gc: what the registry needs stays, for any graph and any moment of a kill; the rest goes."""

import multiprocessing
import os
import random
import shutil
import signal
from datetime import timedelta
from pathlib import Path

import pytest

from registry import (
    artifacts,
    catalogue,
    db,
    exchange,
    gc,
    models,
    objects,
    records,
    runs,
    versions,
)
from registry.artifacts import Artifact
from registry.tables import Status
from registry.workspace import Workspace

FORK = multiprocessing.get_context("fork")
ALL = gc.Places(storage=True)
GRAPHS = int(os.environ.get("TEXTMILL_GC_GRAPHS", "100"))  # of the slow test; 1 s each


def collect(ws: Workspace, places: gc.Places = ALL) -> list[gc.Item]:
    return list(gc.collect(ws, places))


def names(ws: Workspace, place: str) -> set[str]:
    """Return the objects in the cache or the storage."""
    odb = objects.remote(ws) if place == gc.STORAGE else objects.cache(ws)
    files = [path for path in Path(odb.path).rglob("*") if path.is_file()]
    return {path.parent.name + path.name for path in files}


def listed(ws: Workspace, *made: Artifact) -> set[str]:
    """Return the objects of artifacts, read before anything went."""
    return {oid for x in made for oid in objects.members([objects.remote(ws)], x.dvc_md5)}


def forget(session, artifact: Artifact) -> None:
    """Make an artifact another catalogue's: ours does not know it."""
    row = catalogue.find_artifact(session, artifact.fingerprint)
    for line in row.inputs:
        session.delete(line)
    session.flush()
    session.expire(row)
    session.delete(row)


def test_what_is_needed_stays_and_says_why(ws: Workspace, make) -> None:
    base = make(ws, kind="documents", config={"n": 0})
    kept = make(ws, kind="checkpoint", config={"n": 1}, inputs={"tokens": base})
    gone = make(ws, kind="checkpoint", config={"n": 2}, files={"w": b"old" * 500})
    pinned = make(ws, kind="checkpoint", config={"n": 3}, files={"w": b"pin" * 500})
    newest = make(ws, kind="checkpoint", config={"n": 4})
    make(ws, kind="documents", config={"n": 9})
    models.register(ws, "m", kept, "local-run")
    gc.pin(ws, pinned.fingerprint, "for the paper")
    items, stays = gc.survey(ws, ALL)
    assert stays[kept.reference] == "version m/1"
    assert stays[base.reference] == f"{kept.reference} was made from it"
    assert stays[pinned.reference] == "pinned: for the paper"
    assert stays[newest.reference] == "the newest checkpoint/sample"
    assert {(item.place, item.what) for item in items} == {
        (place, gone.reference) for place in (gc.FOLDER, gc.CACHE, gc.STORAGE)
    }
    assert all(item.size >= 1500 for item in items)
    assert gone.path.is_dir() and not versions.verify(ws, gone.dvc_md5)  # only looked
    lost = listed(ws, gone) - listed(ws, base, kept, pinned, newest)
    assert {item.what for item in collect(ws)} == {gone.reference}
    assert not gone.path.exists()
    assert not lost & (names(ws, gc.STORAGE) | names(ws, gc.CACHE))
    assert collect(ws) == []
    for artifact in (base, kept, pinned, newest):
        shutil.rmtree(artifact.path)
        artifacts.checkout(ws, artifact.fingerprint)


def test_what_mlflow_loads_versions_by_stays(ws: Workspace, make) -> None:
    made = [make(ws, kind="checkpoint", config={"n": n}) for n in range(2)]
    packages = [
        make(ws, kind="model", name="textmill-x", inputs={"checkpoint": checkpoint})
        for checkpoint in made
    ]
    collect(ws)
    assert all(package.path.is_dir() for package in packages)  # the older one too
    assert all(checkpoint.path.is_dir() for checkpoint in made)


def test_what_went_is_still_known_and_can_be_made_again(ws: Workspace, make) -> None:
    gone = make(ws, config={"n": 1})
    make(ws, config={"n": 2})
    collect(ws)
    assert artifacts.look_up(ws, gone.fingerprint).removed
    with pytest.raises(ValueError, match="was removed by gc: run its flow again"):
        artifacts.checkout(ws, gone.fingerprint)
    with pytest.raises(ValueError, match="nothing to keep"):
        gc.pin(ws, gone.fingerprint, "too late")
    assert make(ws, config={"n": 1}).fingerprint == gone.fingerprint
    again = artifacts.checkout(ws, gone.fingerprint)
    assert not again.removed and not versions.verify(ws, again.dvc_md5)


def test_copies_here_go_only_when_the_storage_is_sound(ws: Workspace, make) -> None:
    old = make(ws, config={"n": 1}, files={"w": b"only" * 500})
    make(ws, config={"n": 2})
    objects.remove(objects.remote(ws), [next(iter(listed(ws, old)))])
    assert collect(ws, gc.Places()) == []
    list(exchange.push(ws))
    assert {item.place for item in collect(ws, gc.Places())} == {gc.FOLDER, gc.CACHE}
    assert artifacts.checkout(ws, old.fingerprint).path.is_dir()  # from the storage


def test_a_run_under_way_and_an_unknown_need_refuse(ws: Workspace, make) -> None:
    make(ws, config={"n": 1})
    new = make(ws, config={"n": 2}, files={"w": b"new"})

    def start(session) -> str:
        told = {"config": {}, "git_commit": "", "data_version": ""}
        return runs.start_run(session, stage="pretrain", name="x", **told).id

    run = db.write(ws.database_url, start)
    with pytest.raises(ValueError, match=f"run {run} .pretrain x, pid"):
        collect(ws)
    db.write(ws.database_url, lambda s: runs.finish_run(s, run, Status.COMPLETED))
    objects.remove(objects.remote(ws), [new.dvc_md5])
    objects.remove(objects.cache(ws), [new.dvc_md5])
    before = names(ws, gc.STORAGE)
    with pytest.raises(versions.StorageError, match="so nothing is removed"):
        collect(ws)
    assert names(ws, gc.STORAGE) == before
    assert not artifacts.look_up(ws, f"tokens/sample@{new.fingerprint[:9]}").removed
    list(exchange.push(ws))
    assert collect(ws)


def test_what_others_have_at_the_storage_stays(ws: Workspace, make) -> None:
    shared = make(ws, config={"n": 1}, files={"w": b"shared"})
    make(ws, config={"n": 2})
    theirs = make(ws, kind="links", config={"n": 3}, files={"w": b"shared", "x": b"theirs"})
    list(exchange.push(ws))
    db.write(ws.database_url, lambda session: forget(session, theirs))
    (ws.root / "mine.txt").write_text("own data, added with dvc add")
    objects.fill(objects.cache(ws), {"a" * 32: ws.root / "mine.txt"})
    objects.fill(objects.remote(ws), {"a" * 32: ws.root / "mine.txt"})
    collect(ws)
    assert artifacts.look_up(ws, shared.fingerprint).removed
    assert not versions.verify(ws, theirs.dvc_md5)
    assert "a" * 32 in names(ws, gc.STORAGE) & names(ws, gc.CACHE)


def test_what_another_catalogue_made_again_stays(ws: Workspace, make) -> None:
    gone = make(ws, config={"n": 1})
    make(ws, config={"n": 2}, files={"w": b"newer"})
    collect(ws)
    again = make(ws, config={"n": 1})

    def elsewhere(session) -> None:  # it was another catalogue that made it: ours does not know
        row = catalogue.find_artifact(session, gone.fingerprint)
        row.removed = again.created - timedelta(seconds=1)

    db.write(ws.database_url, elsewhere)
    collect(ws)
    assert not versions.verify(ws, again.dvc_md5)
    assert len(records.list_names(ws, f"{records.ARTIFACTS}/tokens/sample")) == 2


def test_strays_of_dead_processes_go(ws: Workspace, make) -> None:
    made = make(ws)
    dead, alive = 2**22 + 1, os.getpid()
    beside = made.path.parent
    left = [beside / f".x.restore-{dead}", beside / f".x.gone-{dead}", ws.state / f".n.{dead}.tmp"]
    stay = [beside / f".x.restore-{alive}", beside / "0123.work", beside / "0123456789abcdef"]
    left.append(beside / f"{made.path.name}.work")
    for folder in [*left, *stay]:
        folder.mkdir()
        (folder / "f").write_bytes(b"x" * 10)
    found = [item for item in gc.survey(ws, ALL)[0] if item.place == gc.TEMPORARY]
    assert {item.what for item in found} == {str(path.relative_to(ws.root)) for path in left}
    assert {item.size for item in found} == {10}
    collect(ws)
    assert not any(path.exists() for path in left) and all(path.exists() for path in stay)


# The property: any graph, any kill.


def graph(ws: Workspace, make, seed: int) -> tuple[list[Artifact], set[str]]:
    """Make a random graph of artifacts that share files; return it and what must stay."""
    draw = random.Random(seed)
    made: list[Artifact] = []
    for n in range(draw.randint(3, 9)):
        parents = draw.sample(made, min(len(made), draw.randint(0, 2)))
        inputs = {f"in{i}": parent for i, parent in enumerate(parents)}
        files = {f"{i}": bytes([draw.randrange(6)]) * 50 for i in range(draw.randint(1, 4))}
        kind, name = draw.choice(["documents", "tokens", "checkpoint"]), draw.choice("ab")
        made.append(make(ws, kind=kind, name=name, config={"n": n}, inputs=inputs, files=files))
    roots = {(x.kind, x.name): x for x in made}
    stay = {x.fingerprint for x in roots.values()}
    for artifact in made:
        if artifact.kind == "checkpoint" and draw.random() < 0.3:
            models.register(ws, "m", artifact, "local-run")
            stay.add(artifact.fingerprint)
        elif draw.random() < 0.2:
            gc.pin(ws, artifact.fingerprint, "chosen")
            stay.add(artifact.fingerprint)
    by_print = {x.fingerprint: x for x in made}
    waiting = list(stay)
    while waiting:
        for parent in by_print[waiting.pop()].inputs.values():
            if parent in by_print and parent not in stay:
                stay.add(parent)
                waiting.append(parent)
    return made, stay


def kill_at(ws: Workspace, step: int) -> bool:
    """Run gc in a process that dies before its n-th removal; say whether it got that far."""
    left = [step]

    def counted(real):
        def removing(*arguments, **named):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return real(*arguments, **named)

        return removing

    def run() -> None:
        one = counted(objects.remove)
        objects.remove = lambda odb, oids: [one(odb, [oid]) for oid in oids]
        records.remove = counted(records.remove)
        shutil.rmtree = counted(shutil.rmtree)
        gc._mark = counted(gc._mark)
        collect(ws)

    process = FORK.Process(target=run)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def check_graph(ws: Workspace, make, seed: int) -> None:
    """Kill gc again and again; what must stay is whole each time, and at the end alone."""
    made, stay = graph(ws, make, seed)
    kept = [x for x in made if x.fingerprint in stay]
    needed, everything = listed(ws, *kept), listed(ws, *made)
    draw = random.Random(seed)
    while kill_at(ws, draw.randint(0, 6)):  # each goes on where the one before it died
        assert needed <= names(ws, gc.STORAGE)
        assert not any(versions.verify(ws, artifact.dvc_md5) for artifact in kept)
    assert names(ws, gc.STORAGE) == needed and names(ws, gc.CACHE) & everything == needed
    assert {x.path for x in made if x.path.exists()} == {x.path for x in kept}
    records_ = records.list_names(ws, records.ARTIFACTS)
    assert {place.rpartition("/")[2] for place in records_} == stay
    for artifact in kept:
        shutil.rmtree(artifact.path)
        artifacts.checkout(ws, artifact.fingerprint)


@pytest.mark.parametrize("seed", range(4))
def test_any_graph_any_kill(ws: Workspace, make, seed: int) -> None:
    check_graph(ws, make, seed)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(4, 4 + GRAPHS))
def test_many_graphs_any_kill(ws: Workspace, make, seed: int) -> None:
    check_graph(ws, make, seed)
