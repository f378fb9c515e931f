"""kill -9 of a study, again and again: done cells stay, the others end with the same weights."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # about five minutes on two cores
KILLS = 4


def study(root: Path) -> psutil.Popen:
    """Start the study as a user would: four cells of eight updates, a checkpoint after each two."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
    changes = {"epochs": 2, "checkpoint_every": 2}
    settings = [f"--set=finetune.training.{name}={value}" for name, value in changes.items()]
    command = ["-m", "flows.cli", "study", "results", "--preset", "tiny", "--seeds", "2", *settings]
    with root.with_suffix(".log").open("ab") as log:
        return psutil.Popen(
            [sys.executable, *command],
            env=environment | {"TEXTMILL_ROOT": str(root)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def cells(root: Path) -> dict[str, tuple[str, int]]:
    """Hash and time of writing of every tuned model."""
    return {
        str(path.relative_to(root)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in (root / "artifacts" / "tuned").glob("*/*[!k]/model.safetensors")
    }


def wait_for_a_state(root: Path, flow: psutil.Popen, known: set[Path]) -> None:
    """Wait until a cell has saved a training state that was not there before."""
    while flow.poll() is None and not set(root.glob("artifacts/tuned/*/*.work/state/*")) - known:
        time.sleep(0.02)


def test_a_killed_study_goes_on(in_fresh_project, tmp_path):
    project = in_fresh_project
    made = study(project)
    assert made.wait(1200) == 0, project.with_suffix(".log").read_text()[-3000:]
    alone = cells(project)
    assert len(alone) == 4
    killed = tmp_path / "killed"  # the same checkpoint, no cell yet
    shutil.copytree(project, killed, ignore=shutil.ignore_patterns("tuned", ".textmill"))
    shutil.rmtree(killed / "artifacts" / "report", ignore_errors=True)
    known: set[Path] = set()
    before: dict[str, tuple[str, int]] = {}
    for _ in range(KILLS):
        flow = study(killed)
        wait_for_a_state(killed, flow, known)
        flow.kill()
        flow.wait()
        known = set(killed.glob("artifacts/tuned/*/*.work/state/*"))
        now = cells(killed)
        assert before.items() <= now.items()  # not touched again
        before = now
    assert study(killed).wait(1200) == 0, killed.with_suffix(".log").read_text()[-3000:]
    after = cells(killed)
    assert before.items() <= after.items()
    assert {k: v[0] for k, v in after.items()} == {k: v[0] for k, v in alone.items()}
