"""Model versions and champions in the catalogue: numbers, moves, history, rollback, one winner."""

import multiprocessing

import pytest

from registry import artifacts, catalogue, db, models, provenance
from registry.workspace import Workspace
from tests.registry.conftest import NAME, waiting

FORK = multiprocessing.get_context("fork")


def checkpoints(ws: Workspace, make, n: int) -> list[int]:
    made = [make(ws, kind="checkpoint", config={"n": i}) for i in range(n)]
    return [models.register(ws, NAME, artifact, "local-run") for artifact in made]


def test_register_is_idempotent_and_counts_up(ws: Workspace, make) -> None:
    assert checkpoints(ws, make, 3) == [1, 2, 3]
    assert checkpoints(ws, make, 3) == [1, 2, 3]
    assert [row.action for row in waiting(ws)] == ["register"] * 3
    with pytest.raises(ValueError, match="is no checkpoint"):
        models.register(ws, NAME, make(ws, kind="tokens"), "r")


def test_promote_compares_and_keeps_history(ws: Workspace, make) -> None:
    checkpoints(ws, make, 3)
    assert models.holder(ws, NAME) is None
    with pytest.raises(models.Conflict, match="champion is version None, not 1"):
        models.promote(ws, NAME, 2, expected=1, reason="x")
    models.promote(ws, NAME, 1, expected=None, reason="first")
    models.promote(ws, NAME, 3, expected=1, reason="better")
    with pytest.raises(models.Conflict, match="is version 3, not 1"):
        models.promote(ws, NAME, 2, expected=1, reason="late")
    with pytest.raises(ValueError, match=r"no version 9; it has \[3, 2, 1\]"):
        models.promote(ws, NAME, 9, expected=3, reason="x")
    assert models.resolve(ws, f"{NAME}@champion").config == {"n": 2}
    assert artifacts.checkout(ws, f"models:/{NAME}/1").config == {"n": 0}
    models.promote(ws, NAME, 2, expected=3, reason="smaller")
    assert models.rollback(ws, NAME, reason="too small") == 3
    assert models.rollback(ws, NAME, reason="worse on the wiki") == 1
    with pytest.raises(ValueError, match="no earlier version"):
        models.rollback(ws, NAME, reason="again")
    moves = [(m.previous, m.version, m.reason) for m in models.history(ws, NAME)]
    assert moves == [
        (None, 1, "first"),
        (1, 3, "better"),
        (3, 2, "smaller"),
        (2, 3, "rollback: too small"),
        (3, 1, "rollback: worse on the wiki"),
    ]
    assert [(m["version"], m["aliases"]) for m in models.list_models(ws)] == [
        (3, []),
        (2, []),
        (1, ["champion"]),
    ]


def test_history_says_who_and_what_was_known(ws: Workspace, make) -> None:
    checkpoints(ws, make, 3)
    artifact = artifacts.look_up(ws, f"{NAME}/2")

    def score(value: float) -> None:
        row = {"task": "t", "metric": "accuracy", "split": "test", "task_version": 1, "n": 9}
        row |= {"value": value, "low": value - 0.1, "high": value + 0.1, "protocol": {"a": 1}}
        db.write(ws.database_url, lambda s: catalogue.add_scores(s, artifact.fingerprint, [row]))

    models.promote(ws, NAME, 1, expected=None, reason="first")
    score(0.5)
    models.promote(ws, NAME, 2, expected=1, reason="better")
    score(0.7)  # later: the history keeps what was known then
    models.promote(ws, NAME, 2, expected=2, reason="again")  # nothing moves, nothing is noted
    first, second = models.history(ws, NAME)
    assert first.scores == {}
    (known,) = second.scores.values()
    assert known == {"value": 0.5, "low": 0.4, "high": 0.6}
    assert list(second.scores) == ['t accuracy test v1 {"a":1}']
    assert second.who == provenance.this_user() and "@" in second.who
    assert second.created >= first.created


def test_rollback_to_a_version(ws: Workspace, make) -> None:
    checkpoints(ws, make, 4)
    for before, version in ((None, 1), (1, 2), (2, 3)):
        models.promote(ws, NAME, version, expected=before, reason="x")
    assert models.rollback(ws, NAME, reason="x", to=1) == 1
    with pytest.raises(ValueError, match="version 1 already"):
        models.rollback(ws, NAME, reason="x", to=1)
    with pytest.raises(ValueError, match="no earlier version"):
        models.rollback(ws, NAME, reason="x")
    assert models.rollback(ws, NAME, reason="x", to=4) == 4  # it never was champion: a move as any
    assert models.rollback(ws, NAME, reason="x") == 1
    with pytest.raises(ValueError, match="no version 9"):
        models.rollback(ws, NAME, reason="x", to=9)
    with pytest.raises(ValueError, match="no earlier version"):
        models.rollback(ws, "textmill-other", reason="x")


def test_the_short_list_has_newest_and_aliased_versions(ws: Workspace, make) -> None:
    checkpoints(ws, make, 5)
    models.promote(ws, NAME, 2, expected=None, reason="x")
    assert [row["version"] for row in models.list_models(ws, current=True)] == [5, 2]
    assert [row["version"] for row in models.list_models(ws)] == [5, 4, 3, 2, 1]


def test_of_twenty_promoters_one_wins(ws: Workspace, make) -> None:
    versions = checkpoints(ws, make, 5) * 4
    results = FORK.SimpleQueue()

    def compete(version: int) -> None:
        try:
            models.promote(ws, NAME, version, expected=None, reason=f"by {version}")
            results.put(version)
        except models.Conflict:
            results.put(None)

    workers = [FORK.Process(target=compete, args=(version,)) for version in versions]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    winners = [version for version in (results.get() for _ in workers) if version]
    assert len(winners) == 1
    assert models.holder(ws, NAME) == winners[0]
    assert [move.version for move in models.history(ws, NAME)] == winners
    assert [row.action for row in waiting(ws)].count("alias") == 1
