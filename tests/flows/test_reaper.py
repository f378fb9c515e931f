"""A dead run becomes Crashed in Prefect, also when Prefect was away while it died."""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import httpx
import pytest
from prefect import flow
from prefect.settings import get_current_settings
from sqlalchemy import update

from flows import reaper
from flows.progress import Away
from flows.settings import enter, services_file
from flows.stage import stage
from modules.config import Config
from registry import catalogue, db, leases, outbox, runs
from registry.tables import Kind, Run, Status, now
from registry.workspace import Workspace


class Empty(Config):
    """No settings."""


class Prefect(BaseHTTPRequestHandler):
    """The two routes that are asked for, and what was set through them."""

    states: ClassVar[dict[str, str]] = {}
    asked: ClassVar[list[tuple[str, str, str | None]]] = []

    def do_GET(self):
        state = self.states.get(self.path.rpartition("/")[2])
        self.answer(404 if state is None else 200, {"state_type": state})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        run = self.path.split("/")[-2]
        self.asked.append((run, body["state"]["type"], self.headers["Authorization"]))
        self.answer(201, {})

    def answer(self, code, body):
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.delenv("TEXTMILL_DATABASE_URL", raising=False)
    return Workspace.open(tmp_path)


def died(workspace, flow_run):
    """A run whose process is gone."""

    def add(session):
        made = runs.start_run(
            session, stage="s", name="n", config={}, git_commit="", data_version=""
        )
        made.flow_run_id, made.pid_started = flow_run, made.pid_started - 1
        return made.id

    return db.write(workspace.database_url, add)


def test_prefect_hears_of_the_dead_once_it_is_there(workspace):
    names = ["running", "completed", "unknown", "again"]
    for name in names:
        died(workspace, name)
    assert reaper.reap(workspace) == 4  # nobody is there to hear of it
    with db.reading(workspace.database_url) as session:
        assert outbox.count_pending(session, leases.PREFECT) == 4

    def restart(session):  # Prefect has started one of them a second time
        made = runs.start_run(
            session, stage="s", name="n", config={}, git_commit="", data_version=""
        )
        made.flow_run_id = "again"

    db.write(workspace.database_url, restart)
    Prefect.states = {"running": "RUNNING", "completed": "COMPLETED", "again": "RUNNING"}
    Prefect.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Prefect) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/api"
        services_file(workspace).write_text(json.dumps({"pid": os.getpid(), "prefect": address}))
        assert reaper.reap(workspace) == 0
        server.shutdown()
    [(run, state, authorization)] = Prefect.asked
    assert (run, state) == ("running", "CRASHED")
    assert authorization.startswith("Basic ")
    with db.reading(workspace.database_url) as session:
        assert outbox.count_pending(session, leases.PREFECT) == 0


def test_a_watch_finds_a_run_that_dies(workspace, monkeypatch):
    monkeypatch.setattr(reaper, "LOOK_SECONDS", 0.05)
    with reaper.reaping(workspace):
        run = died(workspace, None)
        for _ in range(200):
            with db.reading(workspace.database_url) as session:
                if session.get(Run, run).status == "interrupted":
                    return
            threading.Event().wait(0.05)
    pytest.fail("nobody looked")


def test_a_flow_that_was_taken_for_dead_keeps_nothing_and_the_next_goes_on(
    prefect_server, in_fresh_project
):
    made, reaped = [], []

    @flow
    def one() -> None:
        with stage("fenced", {"name": "one"}) as at:

            def step(out, progress):
                (out / "whole").write_text("bytes")
                made.append(at.run_id)
                if len(made) == 1:  # the machine sleeps, and another one looks for dead runs
                    db.write(at.workspace.database_url, forget)
                    reaped.extend(run.id for run in leases.reap(at.workspace))
                return {}

            at.make(Kind.TOKENS, "fenced", step, config=Empty(), inputs={}, version=1)

    def forget(session):
        changed = {"host": "elsewhere", "heartbeat": now() - 2 * runs.STALE}
        session.execute(update(Run).values(**changed))

    with pytest.raises(runs.LeaseLost, match="run the same command again"):
        one()
    one()
    with db.reading(enter().database_url) as session:
        found = {run.id: run.status for run in runs.list_runs(session, stage="fenced")}
        assert catalogue.count_artifacts(session) == 1
    assert made == reaped and found.pop(reaped[0]) == Status.INTERRUPTED
    assert list(found.values()) == [Status.COMPLETED]  # of the bytes that the first one left


def test_flows_within_a_flow_have_no_heartbeat_of_their_own(prefect_server, in_fresh_project):
    seen = []

    def heartbeat() -> int | None:
        return get_current_settings().flows.heartbeat_frequency

    @flow
    def inner() -> None:
        seen.append(heartbeat())

    @flow
    def outer() -> None:
        seen.append(heartbeat())
        with stage("outer", {"name": "one"}):
            inner()
        seen.append(heartbeat())

    outer()
    assert seen[1] is None and seen[0] == seen[2] is not None


def test_no_work_fails_because_prefect_is_away():
    asked = []

    def refuse():
        asked.append(1)
        raise httpx.ConnectError("no")

    pages = Away()
    assert pages.tell(refuse) is None
    assert pages.tell(refuse) is None  # not asked again at once
    assert len(asked) == 1
    pages.until = 0.0
    assert pages.tell(lambda: "there") == "there"
    with pytest.raises(ValueError, match="ours"):
        pages.tell(lambda: (_ for _ in ()).throw(ValueError("ours")))
