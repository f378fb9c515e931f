"""A temporary Prefect server that outlived its run is stopped, and no other one."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from flows import orphans, services
from flows.settings import RUN_PID, prefect_settings
from flows.temporary_server import APP
from registry.workspace import Workspace

OWN = ["127.0.0.1:80", "localhost:80"]
SLEEPS = [sys.executable, "-c", "input()", APP]


@pytest.fixture
def start():
    """Start processes that look like a temporary server; stop what is left of them."""
    started = []

    def one(home: str, run: int | None) -> subprocess.Popen:
        environment = {**os.environ, "PREFECT_HOME": home}
        environment.pop(RUN_PID, None)
        if run is not None:
            environment[RUN_PID] = str(run)
        started.append(subprocess.Popen(SLEEPS, env=environment, stdin=subprocess.PIPE))
        return started[-1]

    yield one
    for process in started:
        process.kill()
        process.wait()


def test_only_the_server_of_a_dead_run_of_this_project_is_stopped(in_project, start):
    workspace = Workspace.open(Path(in_project))
    home = prefect_settings(workspace)["PREFECT_HOME"]
    gone = subprocess.Popen(["true"])
    gone.wait()
    orphan = start(home, gone.pid)
    others = [start(home, os.getpid()), start(home, None), start(home + "-other", gone.pid)]
    assert orphans.stop_orphans(workspace) == 1
    assert not psutil.pid_exists(orphan.pid)
    assert [process.poll() for process in others] == [None, None, None]


def test_every_flow_has_a_deployment():
    root = Path(services.__file__).parent
    listed = yaml.safe_load((root / "prefect.yaml").read_text())["deployments"]
    flows = {
        f"flows.{path.stem}:{node.name}"
        for path in root.glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef)
        for mark in node.decorator_list
        if isinstance(mark, ast.Call) and getattr(mark.func, "id", "") == "flow"
    }
    assert flows == {deployment["entrypoint"] for deployment in listed}


@pytest.mark.parametrize(
    ("host", "names", "here", "allowed"),
    [
        ("127.0.0.1", (), "127.0.0.1", OWN),
        ("0.0.0.0", ("box",), "127.0.0.1", [*OWN, "box:80"]),
        ("10.0.0.7", ("box:443",), "10.0.0.7", [*OWN, "10.0.0.7:80", "box:443"]),
    ],
)
def test_servers_answer_to_the_names_they_are_reached_by(host, names, here, allowed):
    at = services.Addresses(80, 81, host, names)
    assert (at.here, at.hosts(80)) == (here, allowed)
    assert services.urls(at) == (f"http://{here}:80/api", f"http://{here}:81")


def test_a_host_that_others_reach_needs_a_name():
    with pytest.raises(ValueError, match="--allow-host NAME"):
        services.Addresses(4200, 5000, "0.0.0.0").check()
