"""A run that no worker takes is shown as late, and says why; two minutes on an idle machine."""

import subprocess
import sys

import pytest

from tests.flows.conftest import new_project
from tests.flows.live import environment, live, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def printed(root, *arguments: str) -> str:
    """What a command says, in one line."""
    command = [sys.executable, "-m", "flows.cli", *arguments]
    done = subprocess.run(command, env=environment(root), capture_output=True, text=True)
    return " ".join((done.stdout + done.stderr).split())


def pause(up, paused: bool) -> None:
    """Keep the worker from taking runs, or let it; while its SQLite is busy Prefect answers 503."""
    change = {"is_paused": paused}
    until("pool", 60, lambda: up.api.patch("work_pools/local", json=change).is_success)


def test_a_run_that_no_worker_takes_says_why(tmp_path, data):
    with live(new_project(tmp_path / "project", data)) as up:
        pause(up, True)
        run = up.pretrain(10)
        until("late", 60, lambda: up.ask("GET", f"flow_runs/{run}")["state_name"] == "Late")
        asked = {"logs": {"flow_run_id": {"any_": [run]}}}
        until("its log", 120, lambda: up.ask("POST", "logs/filter", **asked))
        [line] = up.ask("POST", "logs/filter", **asked)
        assert "no worker of the pool local" in line["message"]
        name = up.ask("GET", f"flow_runs/{run}")["name"]
        for command in ("status", "doctor"):
            said = printed(up.root, command)
            assert "late runs" in said and f"{name} waits for a worker" in said

        pause(up, False)
        until("taken", 60, lambda: up.state(run) != "SCHEDULED")
        assert "late runs:" not in printed(up.root, "status")
        up.cancel(run)
