"""The training process: killed at any moment it resumes bit for bit; SIGTERM saves and exits 75."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modules.files import sha256
from modules.training.events import EventFile, read_events
from modules.training.fit import INTERRUPTED, Result, child_environment, launch

STEPS = 24


def pretrain_job(corpus, tiny, out: Path, **changes):
    config = {
        "model": tiny.model_dump(),
        "optim": {"lr": 1e-3, "warmup_steps": 4},
        "batch_size": 4,
        "accumulate": 2,
        "max_steps": STEPS,
        "val_every": 8,
        "val_windows": 4,
        "checkpoint_every": 3,
        "log_every": 2,
        "threads": 1,
        "precision": "32-true",
        "accelerator": "cpu",
        **changes,
    }
    events = str(out.with_suffix(".events.jsonl"))
    return {
        "kind": "pretrain",
        "config": config,
        "inputs": corpus,
        "out": str(out),
        "events": events,
    }


def finetune_job(pretrained: Path, data: Path, out: Path, *, task="passage_source", **changes):
    config = {
        "optim": {"lr": 3e-3, "warmup_fraction": 0.1, "schedule": "linear"},
        "epochs": 2,
        "batch_size": 16,
        "checkpoint_every": 2,
        "log_every": 2,
        "threads": 1,
        "precision": "32-true",
        "accelerator": "cpu",
        **changes,
    }
    return {
        "kind": "finetune",
        "task": task,
        "config": config,
        "inputs": {"checkpoint": str(pretrained), "data": str(data)},
        "out": str(out),
        "events": str(out.with_suffix(".events.jsonl")),
    }


def kill_until_done(forks, job, *, seconds: float, say: random.Random, kills: int) -> int:
    """Kill the job at random moments, `kills` times at most; return how often it was."""
    killed = 0
    while True:
        after = say.uniform(0, seconds) if killed < kills else 1e9
        result = forks.run(job, signal=signal.SIGKILL, after=after)
        if result["code"] == 0:
            return killed
        assert result["code"] == -signal.SIGKILL, Path(job["events"]).with_suffix(".log")
        killed += 1


def test_killed_pretraining_ends_with_the_same_bytes(forks, corpus, tiny, tmp_path, digests):
    optim = {"lr": 1e-3, "warmup_steps": 4, "optimizer": "muon"}
    whole = pretrain_job(corpus, tiny, tmp_path / "whole", optim=optim)
    seconds = forks.run(whole)["seconds"]
    wanted = digests(tmp_path / "whole")
    assert {"model.safetensors", "config.json", "training.json", "curve.jsonl"} <= set(wanted)
    assert not (tmp_path / "whole/state").exists()
    job = pretrain_job(corpus, tiny, tmp_path / "killed", optim=optim)
    kill_until_done(forks, job, seconds=seconds * 0.8, say=random.Random(3), kills=3)
    assert digests(tmp_path / "killed") == wanted


def ends_of(out: Path) -> dict[str, str]:
    """The SHA-256 of a run's weights, and of weights, optimizer and RNG in its last state."""
    state = out / "state" / f"step-{STEPS:08d}"
    files = [out / "model.safetensors", *sorted(state.glob("*.safetensors"))]
    assert len(files) == 4
    return {path.name: sha256(path) for path in files}


def kill_everywhere(forks, job, *, seconds: float, say: random.Random, kills: int) -> int:
    """Kill a run at random moments and, every other time, inside a save; return how often."""
    killed = 0
    while True:
        when = {"after": say.uniform(0, seconds)} if killed % 2 else {"aim": say.randrange(30)}
        when = when if killed < kills else {}
        code = forks.run(job, signal=signal.SIGKILL, keep_state=True, **when)["code"]
        if code == 0:
            return killed
        assert code == -signal.SIGKILL, Path(job["events"]).with_suffix(".log")
        killed += 1


def check_kills(forks, corpus, tiny, folder: Path, *, runs: int, total: int) -> None:
    """Kill runs of four kinds `total` times in all; each must end with the undisturbed bits."""
    kinds = [(accumulate, workers) for accumulate in (4, 1) for workers in (0, 2)]
    wanted, seconds, killed, run = {}, {}, 0, 0
    for accumulate in (4, 1):
        job = pretrain_job(corpus, tiny, folder / f"whole-{accumulate}", accumulate=accumulate)
        seconds[accumulate] = forks.run(job, keep_state=True)["seconds"]
        wanted[accumulate] = ends_of(Path(job["out"]))
    assert wanted[4] != wanted[1]
    say = random.Random(total)
    while run < runs or killed < total:
        accumulate, workers = kinds[run % len(kinds)]
        job = pretrain_job(corpus, tiny, folder / f"{run}", accumulate=accumulate, workers=workers)
        moment = 0.8 * seconds[accumulate]
        kills = -(-(total - killed) // max(1, runs - run))
        killed += kill_everywhere(forks, job, seconds=moment, say=say, kills=kills)
        assert ends_of(Path(job["out"])) == wanted[accumulate], job["out"]
        shutil.rmtree(job["out"])
        run += 1
    print(f"{killed} kills, {run} of {run} runs identical")  # noqa: T201  pytest -s shows it


@pytest.mark.timeout(600)  # a quarter of a minute, if nobody else is at work
def test_sixty_kills(forks, corpus, tiny, tmp_path):
    check_kills(forks, corpus, tiny, tmp_path, runs=4, total=60)


@pytest.mark.slow  # 14 minutes on two busy cores
@pytest.mark.timeout(3600)
def test_a_thousand_kills_over_a_hundred_runs(forks, corpus, tiny, tmp_path):
    check_kills(forks, corpus, tiny, tmp_path, runs=100, total=1000)


def test_killed_finetuning_ends_with_the_same_bytes(
    forks, pretrained, toy_tasks, tmp_path, digests
):
    whole = finetune_job(pretrained, toy_tasks, tmp_path / "whole")
    seconds = forks.run(whole)["seconds"]
    wanted = digests(tmp_path / "whole")
    assert {"task.json", "scores.json", "predictions.jsonl.zst"} <= set(wanted)
    job = finetune_job(pretrained, toy_tasks, tmp_path / "killed")
    kill_until_done(forks, job, seconds=seconds * 0.8, say=random.Random(3), kills=3)
    assert digests(tmp_path / "killed") == wanted


def test_sigterm_saves_exits_75_and_resumes(forks, corpus, tiny, tmp_path, digests):
    forks.run(pretrain_job(corpus, tiny, tmp_path / "whole", checkpoint_every=1000))
    job = pretrain_job(corpus, tiny, tmp_path / "stopped", checkpoint_every=1000)
    result = forks.run(job, signal=signal.SIGTERM, at=1)
    assert result["code"] == INTERRUPTED
    status = json.loads(Path(job["events"]).with_suffix(".status.json").read_text())
    assert status["state"] == "interrupted"
    saved = list((tmp_path / "stopped/state").glob("step-*"))
    assert len(saved) == 1 and 1 <= int(saved[0].name[5:]) < STEPS
    assert forks.run(job)["code"] == 0
    assert digests(tmp_path / "stopped") == digests(tmp_path / "whole")
    assert {e["attempt"] for e in read_events(Path(job["events"]))} == {1, 2}


def test_job_of_another_config_is_refused(forks, corpus, tiny, tmp_path):
    job = pretrain_job(corpus, tiny, tmp_path / "out")
    forks.run(job, signal=signal.SIGTERM, at=1)
    other = pretrain_job(corpus, tiny, tmp_path / "out", seed=7)
    assert forks.run(other)["code"] == 1
    status = json.loads(Path(job["events"]).with_suffix(".status.json").read_text())
    assert status["state"] == "failed" and "another config" in status["error"]


def test_launch_follows_events_and_stops_the_child_with_the_caller(corpus, tiny, tmp_path):
    job = pretrain_job(corpus, tiny, tmp_path / "out", max_steps=100000)

    def stop_at_once(event):
        assert event["step"] >= 1 and event["of"] == 100000 and event["attempt"] == 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(job, on_event=stop_at_once)
    status = json.loads(Path(job["events"]).with_suffix(".status.json").read_text())
    assert status["state"] == "interrupted"
    assert list((tmp_path / "out/state").glob("step-*"))


def test_failure_is_told_by_name(corpus, tiny, tmp_path):
    job = pretrain_job(corpus, tiny, tmp_path / "out", model={**tiny.model_dump(), "vocab_size": 9})
    result = launch(job, on_event=lambda event: None)
    assert result == Result("failed", 0, result.error)
    assert "model.vocab_size is 9" in result.error


def test_child_dies_with_its_parent(tmp_path):
    pid = tmp_path / "pid"
    child = (
        "import os, pathlib, time; from modules.training.fit import die_with_parent;"
        f"die_with_parent(os.getppid()); pathlib.Path({str(pid)!r}).write_text(str(os.getpid()));"
        "time.sleep(60)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent])
    for _ in range(600):
        if pid.exists() and pid.read_text():
            break
        time.sleep(0.05)
    process.kill()
    process.wait()
    for _ in range(100):
        if not Path(f"/proc/{pid.read_text()}").exists():
            return
        time.sleep(0.05)
    pytest.fail("the child outlived its parent")


def test_events_survive_half_a_line(tmp_path):
    path = tmp_path / "events.jsonl"
    EventFile(path)({"step": 1})
    with path.open("ab") as file:
        file.write(b'{"step": 2, "lo')
    EventFile(path)({"step": 2})
    assert [(e["step"], e["attempt"]) for e in read_events(path)] == [(1, 1), (2, 2)]


def test_credentials_stay_with_the_parent():
    given = {"PATH": os.environ["PATH"], "PREFECT__X": "1", "AWS_SECRET_ACCESS_KEY": "s"}
    kept = child_environment({**given, "MY_TOKEN": "t", "MALLOC_TOP_PAD_": "1"})
    assert not {"PREFECT__X", "AWS_SECRET_ACCESS_KEY", "MY_TOKEN"} & set(kept)
    assert kept["MALLOC_TOP_PAD_"] == "1"  # the user's own setting wins


@pytest.mark.slow
def test_two_processes_train_together(corpus, tiny, tmp_path):
    job = pretrain_job(corpus, tiny, tmp_path / "two", devices=2, max_steps=8)
    events = []
    result = launch(job, on_event=events.append)
    assert result.state == "completed", result.error
    one = launch(
        pretrain_job(corpus, tiny, tmp_path / "one", max_steps=8), on_event=lambda event: None
    )
    assert one.state == "completed"
    losses = [
        json.loads((tmp_path / name / "training.json").read_text())["val_loss"]
        for name in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=0.05)  # dropout masks differ by rank
