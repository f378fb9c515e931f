"""Forked trainings: the same as one from nothing, apart from each other, gone with their flow."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from modules.files import sha256, write_json
from modules.training import fork_server
from modules.training.fit import Result, beside, child_environment, launch, start, stop
from tests.modules.training.test_fit import pretrain_job
from tests.trainings import trainings


@pytest.fixture(autouse=True)
def no_servers():
    """Each test begins and ends without."""
    fork_server.close()
    yield
    fork_server.close()


def servers() -> set[int]:
    """Process ids of this process's fork servers."""
    return {server._process.pid for server in fork_server._servers.values()}


def begun(job: dict) -> Path:
    """The event file of a job whose .job.json is written."""
    events = Path(job["events"])
    write_json(beside(events, "job"), job)
    return events


def until(true) -> None:
    """Wait for something, not for ever."""
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_forked_trainings_share_a_server_and_equal_one_from_nothing(corpus, tiny, tmp_path):
    results = [
        launch(pretrain_job(corpus, tiny, tmp_path / name, max_steps=4), on_event=lambda e: None)
        for name in ("first", "second")
    ]
    assert results == [Result("completed", 4)] * 2 and len(servers()) == 1
    events = begun(pretrain_job(corpus, tiny, tmp_path / "alone", max_steps=4))
    subprocess.run(
        [sys.executable, "-m", "modules.training.fit", str(beside(events, "job"))],
        env=child_environment(os.environ),
        check=True,
    )
    made = {sha256(tmp_path / name / "model.safetensors") for name in ("first", "second", "alone")}
    assert len(made) == 1


def test_each_training_has_its_session_environment_folder_and_log(corpus, tiny, tmp_path):
    """And what can only be set before a process starts makes another server."""
    long = pretrain_job(corpus, tiny, tmp_path / "out", max_steps=100_000)
    events, environment = begun(long), child_environment(os.environ)
    child = start(events, {**environment, "TEXTMILL_X": "1", "CUDA_VISIBLE_DEVICES": "GPU-3"})
    before = servers()
    try:
        until(lambda: '"loss"' in (events.read_text() if events.exists() else ""))
        [process] = trainings(psutil.Process())
        assert child.poll() is None
        assert process.pid == child.pid == os.getsid(child.pid)
        assert process.cwd() == str(Path.cwd())
        opened = {file.path for file in process.open_files()}
        assert str(beside(events, "log")) in opened
    finally:
        stop(child)
    assert child.returncode == 75
    other = start(events, {**environment, "OMP_NUM_THREADS": "1"})
    other.send_signal(signal.SIGTERM)  # before it is forked: it will not be
    assert other.wait() == -signal.SIGTERM
    assert servers() != before
    assert not trainings(psutil.Process())


def test_nothing_outlives_its_flow(corpus, tiny, tmp_path):
    events = begun(pretrain_job(corpus, tiny, tmp_path / "out", max_steps=100_000))
    code = (
        "import os, time; from pathlib import Path; from modules.training import fit;"
        f"fit.start(Path({str(events)!r}), fit.child_environment(os.environ)); time.sleep(600)"
    )
    flow = psutil.Popen([sys.executable, "-c", code], env=child_environment(os.environ))
    until(lambda: trainings(flow))
    left = flow.children(recursive=True)
    assert len(left) == 2  # the server and the training
    flow.kill()
    flow.wait()
    _, alive = psutil.wait_procs(left, timeout=10)
    assert not alive


def test_a_dead_server_ends_its_training_and_the_next_one_gets_another(corpus, tiny, tmp_path):
    def kill(event):
        for pid in servers():
            os.kill(pid, signal.SIGKILL)

    job = pretrain_job(corpus, tiny, tmp_path / "out", max_steps=100_000)
    result = launch(job, on_event=kill)
    assert result.state == "interrupted" and "SIGKILL" in result.error
    job["config"]["max_steps"] = 4
    shorter = pretrain_job(corpus, tiny, tmp_path / "next", max_steps=4)
    assert launch(shorter, on_event=lambda event: None).state == "completed"


def test_imports_that_fail_are_told(corpus, tiny, tmp_path, monkeypatch):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "lightning.py").write_text("raise ImportError('no lightning')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    job = pretrain_job(corpus, tiny, tmp_path / "out")
    result = launch(job, on_event=lambda event: None)
    assert result.state == "failed" and "exit code 1; see" in result.error
    assert "no lightning" in beside(Path(job["events"]), "log").read_text()


def test_a_request_nobody_waits_for_is_not_trained(corpus, tiny, tmp_path):
    """The flow's side of the answer is closed while the server still imports."""
    events = begun(pretrain_job(corpus, tiny, tmp_path / "out", max_steps=100_000))
    server = fork_server.ForkServer(child_environment(os.environ), beside(events, "log"))
    training = server.start(beside(events, "job"), beside(events, "log"), dict(os.environ))
    training.send_signal(signal.SIGTERM)
    assert training.returncode == -signal.SIGTERM
    short = begun(pretrain_job(corpus, tiny, tmp_path / "next", max_steps=2))
    after = server.start(beside(short, "job"), beside(short, "log"), child_environment(os.environ))
    assert after.wait(120) == 0
    assert not events.exists() or '"step"' not in events.read_text()
    server.close()
