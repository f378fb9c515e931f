"""kill -9 of study zero-shot at random moments: in the end the scores are the same, byte for byte.

20 kills take about a quarter of an hour on two cores; TEXTMILL_KILLS sets another number.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from modules.presets import SAMPLE, ZERO_SHOT_TASKS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
KILLS = int(os.environ.get("TEXTMILL_KILLS", "20"))
LONGEST = 900.0  # seconds; no run of the tiny study needs as long on any machine
SETTINGS = {
    "pretrain.model.n_positions": "256",  # CBT's sentences need them
    "zero_shot.tasks": json.dumps(ZERO_SHOT_TASKS),
    "zero_shot.settings": json.dumps({"limit": 20, "bootstrap_samples": 50}),
    "zero_shot.limits": json.dumps({**SAMPLE.zero_shot.limits, "coqa_like": 12}),
}


def study(root: Path) -> psutil.Popen:
    """Start the study of the tiny models as a user would; it says all into a log."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
    settings = [f"--set={name}={value}" for name, value in SETTINGS.items()]
    with root.with_suffix(".log").open("ab") as log:
        return psutil.Popen(
            [sys.executable, "-m", "flows.cli", "study", "zero-shot", "--preset=tiny", *settings],
            env=environment | {"TEXTMILL_ROOT": str(root)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def results(root: Path) -> dict[str, bytes]:
    """Every score, every item's result, and what the pages are made of."""
    names = ("scores/*/*/scores.json", "scores/*/*/items/*", "report/*/*/*.json")
    return {
        str(path.relative_to(root)): path.read_bytes()
        for name in names
        for path in sorted((root / "artifacts").glob(name))
        if path.name != "manifest.json" and not path.parent.name.endswith(".work")
    }


def without_scores(project: Path, to: Path) -> Path:
    """A copy that has the models and nothing that was asked of them."""
    shutil.copytree(project, to, ignore=shutil.ignore_patterns("scores", "report", ".textmill"))
    return to


def wait_until_asking(root: Path, flow: psutil.Popen, since: int) -> None:
    """Wait until a started study is at work on scores or report, or has ended."""
    log = root.with_suffix(".log")
    began = time.monotonic()
    while flow.poll() is None and time.monotonic() - began < LONGEST:
        new = log.read_bytes()[since:]
        if b"zero-shot " in new and b"making it" in new:
            return
        time.sleep(0.02)


def test_killed_studies_end_with_the_same_scores(in_fresh_project, tmp_path):
    project = in_fresh_project
    assert study(project).wait(LONGEST) == 0, project.with_suffix(".log").read_text()[-3000:]
    alone = results(project)
    assert sum(name.endswith("scores.json") for name in alone) == 2 * len(ZERO_SHOT_TASKS)
    chance, kills, number = random.Random(0), 0, 0
    while kills < KILLS:
        number += 1
        killed = without_scores(project, tmp_path / f"killed{number}")
        while (code := killed_or_ended(killed, chance, kills < KILLS)) < 0:
            kills += 1
        assert code == 0, killed.with_suffix(".log").read_text()[-3000:]
        assert results(killed) == alone, f"after {kills} kills"


def killed_or_ended(root: Path, chance: random.Random, may_kill: bool) -> int:
    """Run a study until a random moment or its end; return its exit code, negative if killed."""
    log = root.with_suffix(".log")
    since = log.stat().st_size if log.exists() else 0
    flow = study(root)
    if may_kill:
        wait_until_asking(root, flow, since)
        try:
            return int(flow.wait(chance.uniform(0, 6)))
        except psutil.TimeoutExpired:
            flow.kill()
    return int(flow.wait(LONGEST))
