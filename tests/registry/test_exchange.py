"""push and pull: an empty clone starts from the storage alone; damage is named and mended."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from registry import (
    artifacts,
    catalogue,
    db,
    exchange,
    models,
    projection,
    records,
    shelf,
    versions,
)
from registry.artifacts import Artifact
from registry.records import ArtifactRecord
from registry.workspace import Workspace

NAME = "textmill-sample"


@pytest.fixture
def clone(
    ws: Workspace, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Workspace]:
    """Make an empty project that knows the first one's storage by its address, and nothing else."""

    def made() -> Workspace:
        root = tmp_path_factory.mktemp("clone")
        (root / ".dvc").mkdir()
        (root / ".dvc" / "config").write_text(
            f"[core]\n    no_scm = true\n['remote \"storage\"']\n    url = {ws.state / 'storage'}\n"
        )
        other = Workspace.open(root)
        monkeypatch.setitem(projection._silent_until, other.tracking_uri, float("inf"))
        return other

    return made


def chain(ws: Workspace, make, size: int = 1) -> Artifact:
    """Make documents, tokens of them and a checkpoint of those, with a run and a score."""
    documents = make(ws, kind="documents", config={"n": 1}, files={"a.jsonl": b"[]"})
    tokens = make(ws, config={"n": 1}, inputs={"documents": documents})
    made = make(
        ws, kind="checkpoint", config={"size": size}, inputs={"tokens": tokens, "base": "e" * 64}
    )
    score = {"task": "t", "metric": "accuracy", "value": 0.5, "n": 10, "split": "test"}
    score |= {"task_version": 1, "protocol": {"stride": 32}, "low": 0.4, "high": 0.6}
    db.write(ws.database_url, lambda s: catalogue.add_scores(s, made.fingerprint, [score]))
    return made


def promote(ws: Workspace, artifact: Artifact) -> int:
    version = models.register(ws, NAME, artifact, "local-run", tags={"who": "me"})
    models.promote(ws, NAME, version, expected=models.holder(ws, NAME), reason="better")
    return version


def push(ws: Workspace, *what: str) -> dict[str, exchange.Moved]:
    return {moved.what: moved for moved in exchange.push(ws, what)}


def pull(ws: Workspace, *what: str, inputs: bool = False) -> dict[str, exchange.Moved]:
    return {moved.what: moved for moved in exchange.pull(ws, what, inputs=inputs)}


def edges(ws: Workspace, reference: str) -> list[tuple]:
    fingerprint = artifacts.look_up(ws, reference).fingerprint
    with db.reading(ws.database_url) as session:
        return [
            (e.child.fingerprint, e.role, e.parent and e.parent.fingerprint, e.data)
            for e in catalogue.ancestors(session, fingerprint)
        ]


def at_storage(ws: Workspace) -> list[Path]:
    return sorted(p for p in (ws.state / "storage" / "files").rglob("*") if p.is_file())


def spoil(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def test_an_empty_clone_pulls_a_champion_by_its_name(ws: Workspace, make, clone) -> None:
    chain(ws, make, size=0)
    first = chain(ws, make)
    models.register(ws, NAME, chain(ws, make, size=9), "local-run")  # so the numbers are not 1, 1
    promote(ws, first)
    assert not [m for m in push(ws).values() if m.error]
    other = clone()
    done = pull(other, f"{NAME}@champion")
    assert done[f"{NAME}@champion"].done == "version 2"
    got = artifacts.checkout(other, f"{NAME}@champion")
    assert got.fingerprint == first.fingerprint
    assert (got.path / "a.bin").read_bytes() == (first.path / "a.bin").read_bytes()
    assert edges(other, f"{NAME}@champion") == edges(ws, f"{NAME}@champion")
    assert got.created == first.created and got.config == first.config
    with db.reading(other.database_url) as session:
        (score,) = catalogue.leaderboard(session, fingerprint=got.fingerprint)
        assert (score.value, score.low, score.protocol) == (0.5, 0.4, '{"stride":32}')
    (version,) = models.list_models(other, NAME)
    assert (version["version"], version["tags"]["who"]) == (2, "me")
    below = artifacts.look_up(other, got.inputs["tokens"])
    assert not below.path.exists()  # fetched when it is asked for
    assert artifacts.checkout(other, below.fingerprint).path.is_dir()
    assert pull(other)[f"{NAME}@champion"].done == "version 2, as at the storage"


def test_every_way_to_name_an_artifact_works_from_afar(ws: Workspace, make, clone) -> None:
    old, new = chain(ws, make, size=1), chain(ws, make, size=2)
    promote(ws, old)
    push(ws)
    names = {"checkpoint/sample": new, old.fingerprint[:9]: old, f"models:/{NAME}/1": old}
    names |= {f"checkpoint/sample@{old.fingerprint[:5]}": old}
    for name, meant in names.items():
        other = clone()
        pull(other, name, inputs=True)
        found = artifacts.look_up(other, meant.fingerprint)
        tokens = artifacts.look_up(other, meant.inputs["tokens"])
        assert found.path.is_dir() and tokens.path.is_dir(), name
    other = clone()
    with pytest.raises(ValueError, match=f"{NAME}@champion.*The catalogue is empty"):
        pull(other, "textmill-none@champion")
    with pytest.raises(ValueError, match="is not a reference"):
        pull(other, "../../etc/passwd")
    with pytest.raises(ValueError, match="not allowed"):
        pull(other, "..@champion")


def test_an_alias_moves_forwards_only(ws: Workspace, make, clone) -> None:
    one, two, three = (chain(ws, make, size=n) for n in (1, 2, 3))
    promote(ws, one)
    push(ws)
    other = clone()
    pull(other)
    promote(ws, two)
    push(ws)
    assert pull(other)[f"{NAME}@champion"].done == "version 2"
    promote(ws, three)
    promote(other, artifacts.look_up(other, one.fingerprint))
    assert push(ws)[f"{NAME}@champion"].done == "version 3"
    assert "elsewhere here" in push(other)[f"{NAME}@champion"].error
    assert "elsewhere here" in pull(other)[f"{NAME}@champion"].error
    assert models.holder(other, NAME) == 1
    models.promote(other, NAME, 3, expected=1, reason="the storage's")
    assert pull(other)[f"{NAME}@champion"].done == "version 3, as at the storage"
    models.promote(other, NAME, 1, expected=3, reason="after all")
    assert push(other)[f"{NAME}@champion"].done == "version 1"  # one history again
    models.promote(ws, NAME, 2, expected=3, reason="no")
    assert "elsewhere here" in push(ws)[f"{NAME}@champion"].error
    assert not [moved for moved in exchange.push(ws, force=True) if moved.error]
    assert pull(clone())[f"{NAME}@champion"].done == "version 2"


def test_damage_at_the_storage_is_named_and_mended_from_the_folder(ws: Workspace, make) -> None:
    files = {f"{i}.bin": bytes([i]) * 1000 for i in range(20)}
    made = make(ws, files=files)
    shutil.rmtree(ws.state / "dvc" / ".dvc" / "cache")  # so that the folder is the only copy
    sound = [path for path in at_storage(ws) if path.stat().st_size == 1000]
    sound[0].unlink()
    spoil(sound[1], b"?" + sound[1].read_bytes()[1:])
    spoil(sound[2], sound[2].read_bytes()[:-1])
    (found,) = exchange.damage(ws)
    assert found.error.startswith("2 damaged, 1 missing (") or found.error.startswith("1 missing, ")
    assert found.error.count(".bin") == 3
    assert "1 missing" in push(ws, made.reference)[made.reference].done
    assert [moved.error for moved in exchange.damage(ws)] == [""]


def test_damage_without_a_copy_is_an_error_that_says_what_to_do(ws: Workspace, make) -> None:
    bad, good = make(ws, config={"a": 1}, files={"x": b"x" * 99}), make(ws, config={"a": 2})
    shutil.rmtree(ws.state / "dvc" / ".dvc" / "cache")
    shutil.rmtree(bad.path)
    victim = next(path for path in at_storage(ws) if path.read_bytes() == b"x" * 99)
    spoil(victim, b"rot")
    done = push(ws)
    assert "2 of 3 objects of" in done[bad.reference].error
    assert "LOCAL ONLY" in done[bad.reference].error and not done[good.reference].error
    assert victim.read_bytes() == b"rot"  # the last trace of it is not thrown away


def test_push_finishes_what_did_not_reach_the_storage(
    ws: Workspace, make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise versions.StorageError("the storage is away")

    monkeypatch.setattr(versions, "push", away)
    with pytest.raises(versions.StorageError):
        make(ws)
    assert [moved.error for moved in exchange.push(ws)] == ["the storage is away"]
    monkeypatch.undo()
    (done,) = push(ws)
    assert artifacts.look_up(ws, done).path.is_dir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-20], "damaged"),
        (lambda text: text.replace('"size":', '"size":1'), "hash does not fit"),
        (lambda _: "[]", "damaged"),
        (lambda text: resealed(text, kind="links"), "it is of links"),
        (lambda text: resealed(text, name="../../evil"), "not allowed"),
        (lambda text: resealed(text, fingerprint="zz"), "should match"),
    ],
)
def test_a_record_is_not_believed(ws: Workspace, make, clone, change, message: str) -> None:
    made = make(ws)
    (path,) = (ws.state / "storage" / "textmill" / "artifacts" / "tokens").rglob("*.json")
    path.write_text(change(path.read_text()))
    with pytest.raises(versions.StorageError, match=message):
        pull(clone(), made.reference)
    push(ws)
    assert pull(clone(), made.reference)[made.reference].n_files == made.n_files


def resealed(text: str, **values: str) -> str:
    """Change a record's manifest as somebody who knows the format would."""
    record = json.loads(text)["record"]
    record["manifest"] |= values
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return json.dumps({"sha256": records.hashlib.sha256(text.encode()).hexdigest()})[:-1] + (
        f', "record": {text}}}'
    )


def test_a_lineage_in_a_circle_is_refused(ws: Workspace, make) -> None:
    made = make(ws)
    where = records.address(made.kind, made.name, made.fingerprint)
    record = records.get(ws, where, ArtifactRecord)
    assert record is not None
    itself = {"self": {"artifact": made.fingerprint, "kind": "tokens", "name": "sample"}}
    record.manifest["inputs"] = itself
    records.put(ws, where, record)
    with pytest.raises(versions.StorageError, match="made from itself"):
        shelf.lineage(ws, record)
