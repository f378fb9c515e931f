"""The Prefect server of one command: guarded, without pages, and gone with its command."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import psutil
import pytest

from flows import temporary_server
from flows.temporary_server import APP
from registry.workspace import Workspace

COMMAND = """
import os, sys
from flows.settings import enter
from flows.supervise import wait_for
from flows.temporary_server import start
from registry.access import credentials

workspace = enter()
server = start(workspace)
assert "prefect" not in sys.modules
wait_for(server, os.environ["PREFECT_API_URL"] + "/health", credentials(workspace))
print(os.environ["PREFECT_API_URL"], flush=True)
input()
"""


def status(address: str, host: str = "") -> int:
    """What a server says to somebody without credentials."""
    request = urllib.request.Request(address, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def seconds_of_cpu(process: psutil.Process, seconds: float) -> float:
    """What a process takes of a core in so many seconds."""
    time.sleep(3)  # what follows a start
    before = process.cpu_times()
    time.sleep(seconds)
    return sum(process.cpu_times()[:2]) - sum(before[:2])


@pytest.fixture
def command(in_project):
    """Start a command that has a temporary server; end it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    running = subprocess.Popen(
        [sys.executable, "-c", COMMAND],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield running
    running.kill()
    running.communicate()


def answering(command: subprocess.Popen) -> tuple[str, psutil.Process]:
    """Wait for a command's server; return its address and its process."""
    api = command.stdout.readline().strip()
    (server,) = [x for x in psutil.Process(command.pid).children() if APP in x.cmdline()]
    return api, server


@pytest.mark.timeout(240)
def test_it_is_guarded_rests_and_ends_with_its_command(command):
    api, server = answering(command)
    assert status(f"{api}/health") == 200
    assert status(f"{api}/admin/version") == 401
    assert status(f"{api}/health", host="example.org") == 403
    assert status(api.removesuffix("api")) == 404
    woken = server.num_ctx_switches().voluntary
    assert seconds_of_cpu(server, 10) < 0.15  # Prefect's own takes 0.2 to 0.3 at rest
    assert server.num_ctx_switches().voluntary - woken < 60  # uvicorn's ten a second alone are 100
    print(file=command.stdin, flush=True)
    command.wait(60)
    server.wait(60)


@pytest.mark.timeout(240)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the next command ends it there")
def test_the_kernel_ends_it_with_a_killed_command(command):
    _, server = answering(command)
    command.kill()
    server.wait(60)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_starts_is_answered(in_fresh_project, number):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    command = psutil.Popen(
        [sys.executable, "-m", "flows.cli", "run", "tiny"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "Starting" in command.stderr.readline()
    (server,) = [x for x in command.children() if APP in x.cmdline()]
    command.send_signal(number)
    assert "stopped by a signal before it began" in command.communicate(timeout=60)[1]
    assert command.returncode == 75
    server.wait(60)


def test_none_is_started_where_there_is_one_to_talk_to(in_project, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    assert temporary_server.start(Workspace.open(in_project)) is None


@pytest.mark.timeout(240)
def test_one_that_does_not_start_is_named_with_its_log(in_fresh_project):
    home = in_fresh_project / ".textmill" / "prefect"
    home.mkdir(parents=True)
    (home / "prefect.db").write_bytes(b"no database" * 100)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "run", "tiny"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Prefect's temporary server ended while starting; see" in done.stderr
    assert "prefect-server.log" in done.stderr
    assert "Traceback" not in done.stderr
