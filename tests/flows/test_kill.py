"""kill -9 of the flow or of the training process, at random moments: the same bytes in the end."""

import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
KILLS = 10


def copy_of(project: Path, to: Path) -> Path:
    """A fresh project with the same inputs."""
    to.mkdir()
    shutil.copytree(project / "data", to / "data")
    shutil.copyfile(project / "data.dvc", to / "data.dvc")
    subprocess.run(["git", "init", "-q", str(to)], check=True)
    return to


def start(root: Path) -> psutil.Popen:
    """Start the tiny chain in a process of its own, as a user would."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
    return psutil.Popen(
        [sys.executable, "-m", "flows.cli", "run", "tiny"],
        env=environment | {"TEXTMILL_ROOT": str(root)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def trainers(flow: psutil.Popen) -> list[psutil.Process]:
    """The training processes of a flow."""
    return [p for p in flow.children(recursive=True) if "modules.training.fit" in p.cmdline()]


def weights(root: Path) -> dict[str, str]:
    """sha256 of every model below a project's artifacts."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((root / "artifacts").glob("*/*/*/model.safetensors"))
    }


def test_killed_at_random_moments_ends_with_the_same_weights(project, tmp_path):
    alone = copy_of(project, tmp_path / "alone")
    began = time.monotonic()
    assert start(alone).wait() == 0
    length = time.monotonic() - began

    killed = copy_of(project, tmp_path / "killed")
    moments = random.Random(0)
    hit = {"flow": 0, "trainer": 0}
    while sum(hit.values()) < KILLS:
        flow = start(killed)
        time.sleep(moments.uniform(0.1, 0.9) * length)
        victims = trainers(flow) if flow.is_running() else []
        aim = "trainer" if victims and moments.random() < 0.5 else "flow"
        if flow.poll() is not None:
            break  # it was done before the blow
        (moments.choice(victims) if aim == "trainer" else flow).kill()
        hit[aim] += 1
        flow.wait(120)
    assert start(killed).wait() == 0
    assert weights(alone) == weights(killed)
    assert len(weights(alone)) == 3
    assert sum(hit.values()) >= 3, hit
    assert not list((killed / "artifacts").rglob("*.work"))
