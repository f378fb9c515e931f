"""R13: MLflow is dead, or hangs, for a whole run: no step is slower, no point is lost or doubled.

ROUNDS of a run with MLflow there, killed and stopped, one after the other; about twelve minutes.
A step's wall time says little on a shared host: with nothing else in this machine it swings between
15 and 30 ms. What a dead MLflow could do to it is to let it wait, for a lock, an answer, a disk or
the processor. So that is held to 1 %: the time in which the thread that computes is off the
processor, by the kernel's own count.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

import psutil
import pytest

from flows.supervise import HOST, Service, wait_for
from modules.files import read_jsonl
from registry import db, outbox, projection, runs
from registry.access import client_environment, credentials
from registry.server import server_command
from registry.workspace import Workspace
from tests.flows.conftest import new_project
from tests.flows.live import environment, free_ports, textmill
from tests.trainings import trainings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

ROUNDS = max(1, int(3 * float(os.environ.get("TEXTMILL_PROOF", "1"))))
STEPS = 2000
WAITS = 0.01  # of a step's time, more than with MLflow there
SLOWER = 1.5  # by the wall clock of a shared host: no call that blocks a step


class Server:
    """MLflow's server of a project, which can be killed, stopped and started again."""

    def __init__(self, root: Path) -> None:
        self.workspace, port = Workspace.open(root), free_ports()[0]
        self.url = f"http://{HOST}:{port}"
        store = Workspace.own_tracking(root, self.workspace.database_url)
        hosts = [f"{HOST}:{port}", f"localhost:{port}"]
        command, settings = server_command(self.workspace, store, HOST, port, hosts)
        self.service = Service("MLflow", command, settings, root.with_suffix(".mlflow.log"))

    def start(self) -> None:
        self.service.start()
        wait_for(self.service, f"{self.url}/health", credentials(self.workspace), 900)

    def signal(self, number: int) -> None:
        assert self.service.process
        os.killpg(self.service.process.pid, number)

    @contextmanager
    def away(self, how: str):
        """Have it there, dead or hanging for a block; it answers again afterwards."""
        if how == "killed":
            self.signal(signal.SIGKILL)
        elif how == "stopped":
            self.signal(signal.SIGSTOP)
        yield
        if how == "killed":
            self.service.stop()
            self.start()
        elif how == "stopped":
            self.signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def server(tmp_path_factory, data):
    root = new_project(tmp_path_factory.mktemp("mlflow") / "project", data)
    made = Server(root)
    made.start()
    yield made
    made.service.stop()


def train(server: Server, seed: int) -> tuple[list[dict], float]:
    """Pretrain in a process of its own, as a user would.

    Returns:
        What the training said, and the share of its steps' time in which it waited.
    """
    root = server.workspace.root
    known = {"MLFLOW_TRACKING_URI": server.url} | client_environment(server.workspace)
    command = [sys.executable, "-m", "flows.cli", "pretrain", "tiny"]
    changes = {"seed": seed, "max_steps": STEPS, "val_every": 0, "checkpoint_every": STEPS}
    command += [
        word for name, value in changes.items() for word in ("--set", f"pretrain.{name}={value}")
    ]
    before = set(folder(root).glob("*.jsonl"))
    said, on_processor = root / "said.txt", list[tuple[float, float]]()
    with said.open("w") as out:
        flow = subprocess.Popen(command, env=environment(root) | known, stdout=out, stderr=out)
    while flow.poll() is None:
        on_processor += processor_seconds(flow.pid)
        time.sleep(0.25)
    assert flow.returncode == 0, said.read_text()
    [file] = set(folder(root).glob("*.jsonl")) - before
    events = [row for row in read_jsonl(file) if "loss" in row]
    within = [x for x in on_processor if events[1]["time"] <= x[0] <= events[-1]["time"]]
    (began, first), (ended, last) = within[0], within[-1]
    assert ended - began > 10
    return events, 1 - (last - first) / (ended - began)


def processor_seconds(flow: int) -> list[tuple[float, float]]:
    """Return [(the time, seconds on a processor so far)] of the main thread of a flow's training.

    It computes alone: the preset has one thread. Empty before and after the training.
    """
    with suppress(psutil.NoSuchProcess, FileNotFoundError):
        for process in trainings(psutil.Process(flow)):
            ran = int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[0])
            return [(time.time(), ran / 1e9)]
    return []


def folder(root: Path) -> Path:
    return root / ".textmill" / "training" / "tiny"


def seconds_a_step(events: list[dict]) -> float:
    """The time of a step, without the first second's."""
    first, last = events[1], events[-1]
    return (last["time"] - first["time"]) / (last["step"] - first["step"])


def points(server: Server) -> list[tuple[int, float]]:
    """The loss curve of the newest pretraining, as MLflow has it once it was told all."""
    workspace = Workspace.open(server.workspace.root)
    projection.try_again(workspace)
    while projection.replay_outbox(workspace)[0]:
        projection.try_again(workspace)
    with db.reading(workspace.database_url) as session:
        assert outbox.count_pending(session, projection.SYSTEM) == 0
        run = runs.list_runs(session, stage="pretrain", limit=1)[0].mlflow_run_id
    from registry.actions import run_id

    client = projection.client(workspace)
    history = client.get_metric_history(run_id(workspace, run), "train/loss")
    return [(point.step, point.value) for point in history]


def test_no_step_is_slower_and_no_point_is_lost_or_doubled(server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    for name, value in client_environment(server.workspace).items():
        monkeypatch.setenv(name, value)
    textmill(server.workspace.root, "corpus", "tiny")
    taken: dict[str, list[float]] = {"there": [], "killed": [], "stopped": []}
    waited: dict[str, list[float]] = {"there": [], "killed": [], "stopped": []}
    for seed in range(ROUNDS):
        for number, how in enumerate(taken):
            with server.away(how):
                events, waits = train(server, 10 * seed + number)
            taken[how].append(seconds_a_step(events))
            waited[how].append(waits)
            assert points(server) == [(row["step"], row["loss"]) for row in events]
            print(how, f"{1000 * taken[how][-1]:.2f} ms a step, waits {waits:.2%}")  # noqa: T201
    for how in ("killed", "stopped"):
        assert median(waited[how]) <= median(waited["there"]) + WAITS
        assert min(taken[how]) <= SLOWER * min(taken["there"])
