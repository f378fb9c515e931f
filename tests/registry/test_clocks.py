"""R20: a clock that is a year off, or goes back an hour, kills no run, keeps no dead one, and no
slot is used twice; a run that slept while another took its place writes nothing more. SQLite and
PostgreSQL; about two minutes on an idle machine, of which one is silence.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from registry import artifacts, catalogue, db, leases, projection, runs
from registry.tables import Artifact, Run, now
from registry.workspace import Workspace
from tests.registry.postgres import BIN, postgres

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not shutil.which("faketime"), reason="needs faketime"),
]

REAP = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from registry import leases
from registry.workspace import Workspace
ws = Workspace.open(Path(sys.argv[1]))
print(datetime.now(UTC).isoformat(), *(run.id for run in leases.reap(ws)))
"""
BEAT_THEN_JUMP = """
import sys
from pathlib import Path
from registry import catalogue, runs, db
from registry.workspace import Workspace
ws = Workspace.open(Path(sys.argv[1]))
db.write(ws.database_url, lambda session: runs.start_run(
    session, stage="s", name="n", config={}, git_commit="", data_version=""))
print("started", flush=True)
for _ in sys.stdin:
    db.write(ws.database_url, runs.heartbeat)
    print("beat", flush=True)
"""

SLEEPER = """
import sys
from pathlib import Path
from registry import catalogue, db, leases, runs
from registry.tables import Status
from registry.workspace import Workspace
from tests.registry.conftest import make
runs.this_host = lambda: "elsewhere"
leases.BEAT_SECONDS = 1.0
ws = Workspace.open(Path(sys.argv[1]))
run = db.write(ws.database_url, lambda session: runs.start_run(
    session, stage="s", name="n", config={}, git_commit="", data_version="").id)
leases.keep_alive(ws)
print(run, flush=True)
made = sys.stdin.readline().strip()
score = {"task": "t", "metric": "m", "value": 0.0, "n": 1, "split": "s", "task_version": 1}
for work in (
    lambda: make(ws, config={"size": 3}, run_id=run),
    lambda: db.write(ws.database_url, lambda session: catalogue.add_scores(
        session, made, [score | {"protocol": {}}], run_id=run)),
    lambda: db.write(ws.database_url, lambda session: runs.finish_run(
        session, run, Status.COMPLETED)),
):
    try:
        work()
        print("done")
    except runs.LeaseLost as error:
        print("fenced", str(error).count("\\n"))
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def shared(request, tmp_path: Path, monkeypatch) -> Iterator[Workspace]:
    """A project on either database; its MLflow is away."""
    monkeypatch.delenv("TEXTMILL_DATABASE_URL", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if request.param == "sqlite":
        yield opened(tmp_path, monkeypatch)
        return
    if not BIN.is_dir():
        pytest.skip(f"PostgreSQL 15 is not at {BIN}")
    with postgres() as server:
        monkeypatch.setenv("TEXTMILL_DATABASE_URL", server.url)
        yield opened(tmp_path, monkeypatch)


def opened(root: Path, monkeypatch) -> Workspace:
    made = Workspace.open(root)
    monkeypatch.setitem(projection._silent_until, made.tracking_uri, float("inf"))
    return made


def add(ws: Workspace, **changes) -> str:
    def work(session) -> str:
        made = runs.start_run(
            session, stage="s", name="n", config={}, git_commit="", data_version=""
        )
        for name, value in changes.items():
            setattr(made, name, value)
        return made.id

    return db.write(ws.database_url, work)


def at(jump: str, code: str, ws: Workspace) -> list[str]:
    """Run code in a process whose clock is elsewhere; return the words it prints."""
    command = ["faketime", "-f", jump, sys.executable, "-c", code, str(ws.root)]
    done = subprocess.run(
        command,
        env=os.environ | {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("jump", ["-1y", "+1y", "-1h"])
def test_a_reaper_whose_clock_is_off_takes_the_dead_and_only_them(shared, jump):
    living, dead = add(shared), add(shared, pid_started=-1)
    far = add(shared, host="another") if "postgresql" in shared.database_url else ""
    moment, *reaped = at(jump, REAP, shared)
    assert abs(datetime.fromisoformat(moment) - datetime.now(UTC)) > timedelta(minutes=55)
    assert reaped == [dead]
    with db.reading(shared.database_url) as session:
        for run in filter(None, (living, far)):
            assert session.get(Run, run).status == "running"


@pytest.mark.parametrize("jump", ["-1y", "-1h"])
def test_a_run_whose_clock_goes_back_keeps_its_lease(shared, jump, tmp_path):
    """The lease is renewed once before the jump and once after it, then its process is killed."""
    clock = tmp_path / "clock"
    clock.write_text("+0")
    library = next(Path("/usr/lib").rglob("libfaketime.so.1"))
    fake = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    child = subprocess.Popen(
        [sys.executable, "-c", BEAT_THEN_JUMP, str(shared.root)],
        env=os.environ | fake,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin and child.stdout
    try:
        assert child.stdout.readline() == "started\n"
        for offset in ("+0", jump):
            clock.write_text(offset)
            child.stdin.write("\n")
            child.stdin.flush()
            assert child.stdout.readline() == "beat\n"
            assert leases.reap(shared) == []
    finally:
        child.kill()
        child.wait()
    assert len(leases.reap(shared)) == 1


def until_it_beats(ws: Workspace, run_id: str) -> None:
    """Wait until a run has said, once more than at its start, that it lives."""
    began, first = time.monotonic(), None
    while time.monotonic() - began < 30:
        with db.reading(ws.database_url) as session:
            beat = session.get(Run, run_id).heartbeat
        if beat != (first := first or beat):
            return
        time.sleep(0.1)
    pytest.fail("no heartbeat")


def test_a_run_that_slept_while_another_took_over_writes_nothing_more(shared, make):
    """Stopped for real, as a suspended machine is; the lease runs out in its own time."""
    child = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, str(shared.root)],
        env=os.environ | {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin and child.stdout
    try:
        sleeper = child.stdout.readline().strip()
        until_it_beats(shared, sleeper)
        assert leases.reap(shared) == []
        child.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        while not (dead := leases.reap(shared)):
            assert time.monotonic() - began < 45
            time.sleep(0.5)
        assert [run.id for run in dead] == [sleeper]
        assert time.monotonic() - began > 25

        heir = add(shared)
        made = make(shared, config={"size": 2}, run_id=heir)
        score = {"task": "t", "metric": "m", "value": 1.0, "n": 1, "split": "s"}
        rows = [score | {"task_version": 1, "protocol": {}}]
        db.write(
            shared.database_url,
            lambda session: catalogue.add_scores(session, made.fingerprint, rows, run_id=heir),
        )
        child.send_signal(signal.SIGCONT)
        said, _ = child.communicate(f"{made.fingerprint}\n", timeout=120)
    finally:
        child.kill()
        child.wait()
    assert said.splitlines() == ["fenced 0"] * 3
    with db.reading(shared.database_url) as session:
        assert session.get(Run, sleeper).status == "interrupted"
        assert catalogue.count_artifacts(session) == 1
        assert [row.value for row in catalogue.leaderboard(session)] == [1.0]


def test_a_slot_is_a_moment_not_what_a_clock_shows(shared):
    berlin = ZoneInfo("Europe/Berlin")
    twice = datetime(2026, 10, 25, 2, 30, tzinfo=berlin)  # clocks go back from 3 to 2
    cases = [
        (twice, "summer", None),
        (twice.replace(fold=1), "winter", None),  # an hour later: another slot
        (datetime(2026, 10, 25, 0, 30, tzinfo=UTC), "again", "summer"),  # the first one, in UTC
        (datetime(2026, 10, 25, 1, 30, tzinfo=UTC), "again", "winter"),
        (twice, "summer", None),  # the same flow run, tried again
    ]
    for due, run, holder in cases:
        assert leases.claim_slot(shared, "nightly/x", due, run) == holder


def test_the_newest_is_what_came_last(shared, make):
    make(shared, config={"size": 1})
    second = make(shared, config={"size": 2})
    behind = now() - timedelta(hours=1)  # the clock went back between the two

    def set_back(session) -> None:
        row = catalogue.find_artifact(session, second.fingerprint)
        assert isinstance(row, Artifact)
        row.created = behind

    db.write(shared.database_url, set_back)
    assert artifacts.look_up(shared, "tokens/sample").fingerprint == second.fingerprint
