"""Leases and slots: who lives, and which run may use a scheduled time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from registry import db, leases, runs
from registry.tables import Run, Status, now
from tests.registry.conftest import start_run

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
