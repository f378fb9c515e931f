"""kill -9 of the flow or of the training process, at random moments: the same bytes in the end."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from flows.temporary_server import APP
from tests.trainings import trainings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
KILLS = 10
LONGEST = 600.0  # seconds; no run of the tiny chain needs as long on any machine
TRAINED = 3.0  # seconds in which a tiny chain trains, about


def copy_of(project: Path, to: Path) -> Path:
    """A fresh project with the same inputs."""
    to.mkdir()
    shutil.copytree(project / "data", to / "data")
    shutil.copyfile(project / "data.dvc", to / "data.dvc")
    subprocess.run(["git", "init", "-q", str(to)], check=True)
    return to


def start(root: Path) -> psutil.Popen:
    """Start the tiny chain in a process of its own, as a user would; it says all into a log."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
    with root.with_suffix(".log").open("ab") as log:
        return psutil.Popen(
            [sys.executable, "-m", "flows.cli", "run", "tiny"],
            env=environment | {"TEXTMILL_ROOT": str(root)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def servers(root: Path) -> list[psutil.Process]:
    """The temporary Prefect servers of a project."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if APP in process.cmdline():
                home = Path(process.environ().get("PREFECT_HOME", "/"))
                found += [process] if home.is_relative_to(root) else []
    return found


def weights(root: Path) -> dict[str, str]:
    """sha256 of every model below a project's artifacts."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((root / "artifacts").glob("*/*/*/model.safetensors"))
    }


def finish(root: Path) -> dict[str, str]:
    """Let the chain run to its end; return the weights."""
    assert start(root).wait(LONGEST) == 0, root.with_suffix(".log").read_text()[-3000:]
    assert not list((root / "artifacts").rglob("*.work"))
    return weights(root)


def test_killed_at_random_moments_ends_with_the_same_weights(project, tmp_path):
    began = time.monotonic()
    alone = finish(copy_of(project, tmp_path / "alone"))
    length = time.monotonic() - began
    assert len(alone) == 3  # the checkpoint and two tuned ones

    killed = copy_of(project, tmp_path / "killed")
    moments = random.Random(0)
    hit = {"flow": 0, "trainer": 0}
    while sum(hit.values()) < KILLS:
        aim = min(hit, key=lambda name: hit[name])
        flow = start(killed)
        if blow(flow, aim, moments, length):
            hit[aim] += 1
            flow.wait(LONGEST)
        else:  # it was done before the blow: begin anew
            assert weights(killed) == alone
            shutil.rmtree(killed)
            copy_of(project, killed)
    assert finish(killed) == alone
    assert not servers(killed)


def at_work(flow: psutil.Popen, seconds: float) -> list[psutil.Process]:
    """Who trains once a flow has trained for so many seconds; nobody if it ends before."""
    last = time.monotonic()
    while flow.poll() is None:
        found, now = trainings(flow), time.monotonic()
        if found and (seconds := seconds - (now - last)) <= 0:
            return found
        last = now
        time.sleep(0.02)
    return []


def blow(flow: psutil.Popen, aim: str, moments: random.Random, length: float) -> bool:
    """Kill the flow or one of its trainers at a random moment; tell whether it was still there."""
    if aim == "flow":
        time.sleep(moments.uniform(0.05, 0.9) * length)
        victims: list[psutil.Process] = [flow]
    else:
        victims = at_work(flow, moments.uniform(0.0, TRAINED))
    if flow.poll() is not None or not victims:
        assert flow.wait(LONGEST) == 0
        return False
    moments.choice(victims).kill()
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_same_command_goes_on(project, tmp_path, number):
    """Ctrl-C, or what `docker stop`, systemd and `timeout` send; nobody is left behind."""
    root = copy_of(project, tmp_path / "stopped")
    command = [sys.executable, "-m", "flows.cli", "pretrain", "tiny"]
    command += ["--set", "pretrain.max_steps=100000", "--set", "pretrain.checkpoint_every=100000"]
    environment = os.environ | {"TEXTMILL_ROOT": str(root)}
    subprocess.run([*command[:3], "corpus", "tiny"], env=environment, check=True)
    last = 0
    for _ in range(2):
        flow = psutil.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        assert at_work(flow, 10.0)
        flow.send_signal(number)
        assert "run the same command again" in flow.communicate(timeout=LONGEST)[1]
        assert flow.returncode == 75
        states = (root / "artifacts").glob("checkpoint/tiny/*.work/state/step-*")
        saved = max(int(state.name.removeprefix("step-")) for state in states)
        assert saved > last
        last = saved
        assert not servers(root)
