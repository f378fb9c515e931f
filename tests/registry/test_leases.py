"""Leases, fences and slots: who lives, whose work counts, which run may use a scheduled time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from registry import artifacts, catalogue, db, leases, models, runs
from registry.tables import Run, Status, now
from tests.registry.conftest import start_run

SCORE = {"task": "t", "metric": "accuracy", "value": 0.5, "n": 4, "split": "test"}
SCORE |= {"task_version": 1, "protocol": {}}

DUE = datetime(2026, 3, 29, 2, 0, tzinfo=UTC)  # the night in which Europe's clocks jump


def test_a_time_is_taken_once(ws):
    assert leases.claim_slot(ws, "nightly", DUE, "one") is None
    assert leases.claim_slot(ws, "nightly", DUE, "two") == "one"
    assert leases.claim_slot(ws, "nightly", DUE, "one") is None  # tried again
    assert leases.claim_slot(ws, "weekly", DUE, "two") is None
    assert leases.claim_slot(ws, "nightly", DUE + timedelta(days=1), "two") is None


def test_racers_for_a_time_have_one_winner(ws):
    barrier = threading.Barrier(8)

    def race(name):
        barrier.wait()
        return leases.claim_slot(ws, "nightly", DUE, name)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(race, "abcdefgh"))
    winner = "abcdefgh"[found.index(None)]
    assert found.count(None) == 1
    assert set(found) == {None, winner}


def test_silence_elsewhere_is_death_after_thirty_seconds(ws):
    silent = start_run(ws, host="another", heartbeat=now() - timedelta(seconds=31))
    alive = start_run(ws, host="another", heartbeat=now() - timedelta(seconds=29))
    mine = start_run(ws, heartbeat=now() - timedelta(days=365))  # this host's are known by pid
    assert [run.id for run in leases.reap(ws)] == [silent]
    with db.reading(ws.database_url) as session:
        assert session.get(Run, alive).status == Status.RUNNING
        assert session.get(Run, mine).status == Status.RUNNING


def test_a_run_that_was_taken_for_dead_writes_nothing_more(ws, make):
    zombie = start_run(ws, host="another", heartbeat=now() - timedelta(seconds=31))
    checkpoint = make(ws, kind="checkpoint", run_id=zombie)
    models.register(ws, "textmill-a", checkpoint, "local-1", asked_by=zombie)
    assert [run.id for run in leases.reap(ws)] == [zombie]
    db.write(ws.database_url, runs.heartbeat)  # it is back, and does not know

    def write(work):
        return lambda: db.write(ws.database_url, work)

    tries = [
        lambda: make(ws, kind="checkpoint", config={"size": 2}, run_id=zombie),
        write(lambda s: catalogue.add_scores(s, checkpoint.fingerprint, [SCORE], run_id=zombie)),
        lambda: models.register(ws, "textmill-b", checkpoint, "local-1", asked_by=zombie),
        lambda: models.promote(
            ws, "textmill-a", 1, expected=None, reason="x", asked_by=zombie, alias="champion"
        ),
        write(lambda s: runs.finish_run(s, zombie, Status.COMPLETED)),
        lambda: start_run_below(ws, zombie),
    ]
    for attempt in tries:
        with pytest.raises(runs.LeaseLost, match="run the same command again"):
            attempt()
    db.write(ws.database_url, lambda s: runs.finish_run(s, zombie, Status.FAILED, "LeaseLost"))
    with db.reading(ws.database_url) as session:
        run = session.get(Run, zombie)
        assert run.status == Status.INTERRUPTED and "is gone" in run.detail
        assert catalogue.count_artifacts(session) == 1
        assert catalogue.leaderboard(session) == []
        assert [(row.name, row.version) for row in catalogue.list_models(session)] == [
            ("textmill-a", 1)
        ]
        assert catalogue.list_aliases(session) == []


def test_what_it_left_is_taken_up_by_the_next(ws, make):
    zombie = start_run(ws, host="another", heartbeat=now() - timedelta(seconds=31))
    leases.reap(ws)
    with pytest.raises(runs.LeaseLost):
        make(ws, run_id=zombie)
    fingerprint = artifacts.fingerprint("tokens", {"size": 1}, {"data": "d" * 64}, 1)
    assert artifacts.find(ws, "tokens", fingerprint) is not None  # without making it again


def start_run_below(ws, parent: str) -> str:
    """Begin a step of a flow."""

    def work(session) -> str:
        named = {"stage": "s", "name": "n", "config": {}, "git_commit": "", "data_version": ""}
        return runs.start_run(session, parent_id=parent, **named).id

    return db.write(ws.database_url, work)


def test_heartbeat_speaks_for_this_process_only(ws):
    before = now() - timedelta(minutes=5)
    mine, other = start_run(ws, heartbeat=before), start_run(ws, heartbeat=before, host="another")
    db.write(ws.database_url, runs.heartbeat)
    with db.reading(ws.database_url) as session:
        assert session.get(Run, mine).heartbeat > before + timedelta(minutes=4)
        assert session.get(Run, other).heartbeat == before


def test_a_reaped_run_is_killed_in_mlflow(ws):
    start_run(ws, host="another", heartbeat=now() - timedelta(hours=1), mlflow_run_id="local-1")
    leases.reap(ws)
    from registry import outbox

    with db.reading(ws.database_url) as session:
        told = [(row.action, row.payload["status"]) for row in outbox.pending(session, "mlflow")]
    assert told == [("finish", "KILLED")]


def test_a_flow_run_is_gone_with_the_process_of_its_last_step(ws):
    start_run(ws, flow_run_id="alive")
    start_run(ws, flow_run_id="dead", pid_started=1)
    start_run(ws, flow_run_id="elsewhere", host="another", pid_started=1)
    gone = [name for name in ("alive", "dead", "elsewhere", "?") if leases.is_gone(ws, name)]
    assert gone == ["dead"]
