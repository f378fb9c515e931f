"""A project with its servers up, for proofs: `textmill up` in a process, Prefect's API by HTTP."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from flows.settings import running_services
from modules import presets
from modules.files import read_jsonl
from registry import db, runs
from registry.access import credentials
from registry.tables import Run
from registry.workspace import Workspace

START_SECONDS = 900.0  # minutes on a busy machine
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}
TRAINS = ("modules.training.fork_server", "modules.training.fit")
RUNS = ("prefect.engine", "flow-run execute")


def until(what: str, seconds: float, look: Callable[[], Any]) -> float:
    """Wait until something is true; return how long that took."""
    began = time.monotonic()
    while not look():
        assert time.monotonic() - began < seconds, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.1)
    return time.monotonic() - began


def environment(root: Path) -> dict[str, str]:
    """A user's environment, without what this test run may have set."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
    return kept | {"TEXTMILL_ROOT": str(root)}


def textmill(root: Path, *arguments: str) -> None:
    """Run a command to its end."""
    command = [sys.executable, "-m", "flows.cli", *arguments]
    done = subprocess.run(command, env=environment(root), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def free_ports() -> list[int]:
    """Two ports that nobody listens on."""
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
        return [one.getsockname()[1], two.getsockname()[1]]


class Live:
    """A project whose servers are up."""

    def __init__(self, root: Path, up: psutil.Popen) -> None:
        """Take the project's root and its `textmill up`."""
        self.root, self.up = root, up
        self.workspace = Workspace.open(root)
        found = running_services(self.workspace)
        assert found is not None
        name, _, password = credentials(self.workspace).partition(":")
        self.api = httpx.Client(base_url=found["prefect"], auth=(name, password), timeout=30)
        self.names = {"name": "live", "tokens": "tokens/tiny"}

    def ask(self, method: str, path: str, **body: Any) -> Any:
        """Ask Prefect's API; while its SQLite is busy it answers 503."""
        for pause in (0.5, 1, 2, 4):
            reply = self.api.request(method, path, json=body or None)
            if reply.status_code != 503:
                break
            time.sleep(pause)
        return reply.raise_for_status().json()

    def pretrain(self, steps: int) -> str:
        """Have the worker pretrain a tiny model; return the flow run's id."""
        config = presets.TINY.pretrain.but(max_steps=steps, val_every=0, checkpoint_every=10**6)
        parameters = {"config": config.model_dump(mode="json"), **self.names}
        found = self.ask("GET", "deployments/name/pretrain/pretrain")
        asked = f"deployments/{found['id']}/create_flow_run"
        run: str = self.ask("POST", asked, parameters=parameters)["id"]
        return run

    def cancel(self, flow_run: str) -> None:
        """Do what the UI's Cancel does."""
        state = {"type": "CANCELLING", "name": "Cancelling"}
        self.ask("POST", f"flow_runs/{flow_run}/set_state", state=state)

    def answers(self) -> bool:
        """Whether Prefect's server does."""
        with suppress(httpx.HTTPError):
            return self.api.get("health").status_code == 200
        return False

    def state(self, flow_run: str) -> str:
        """The type of a flow run's state in Prefect."""
        found: str = self.ask("GET", f"flow_runs/{flow_run}")["state_type"]
        return found

    def statuses(self, flow_run: str) -> set[str]:
        """What the catalogue says of a flow run's steps."""
        with db.reading(self.workspace.database_url) as session:
            found: list[Run] = runs.list_runs(session, limit=1000)
            return {str(run.status) for run in found if run.flow_run_id == flow_run}

    def events(self) -> list[dict[str, Any]]:
        """What the training process said, over all its attempts."""
        files = list((self.workspace.state / "training" / "live").glob("*.jsonl"))
        return [row for path in files for row in read_jsonl(path) if "loss" in row]

    def attempt(self) -> int:
        """The number of the newest attempt that made a step."""
        return max((row["attempt"] for row in self.events()), default=0)

    def saved(self) -> list[int]:
        """The steps of the training states on disk, oldest first."""
        folders = self.workspace.artifacts.glob("checkpoint/live/*/state/step-*")
        names = [path.name.removeprefix("step-") for path in folders]
        return sorted(int(name) for name in names if name.isdigit())

    def processes(self, *what: str) -> list[psutil.Process]:
        """Processes of this project whose command line holds one of these."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                line = " ".join(process.cmdline())
                ours = process.environ().get("TEXTMILL_ROOT") == str(self.root)
                dead = process.status() == psutil.STATUS_ZOMBIE
                if ours and not dead and any(each in line for each in what):
                    found.append(process)
        return found


@contextmanager
def live(root: Path) -> Iterator[Live]:
    """Make the tiny corpus of a project and bring its servers up."""
    textmill(root, "corpus", "tiny")
    prefect, mlflow = free_ports()
    command = [sys.executable, "-m", "flows.cli", "up"]
    ports = ["--prefect-port", str(prefect), "--mlflow-port", str(mlflow)]
    with root.with_suffix(".log").open("ab") as log:
        up = psutil.Popen([*command, *ports], env=environment(root), stdout=log, stderr=log)
    try:
        services = root / ".textmill" / "services.json"
        until("up", START_SECONDS, lambda: up.poll() is not None or services.exists())
        assert up.poll() is None, root.with_suffix(".log").read_text()[-3000:]
        assert json.loads(services.read_text())["pid"] == up.pid
        yield Live(root, up)
    finally:
        up.terminate()
        up.wait(120)
