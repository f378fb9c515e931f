"""A worker that serves the deployments of a work pool: the one of `up`, or one of its own."""

import signal
import sys
from collections.abc import Callable

from flows.orphans import stop_flow_runs
from flows.settings import prefect_settings
from flows.supervise import Service
from registry.access import client_environment
from registry.workspace import Workspace

POOL = "local"
WORKER_SECONDS = 3.0  # once its runs are gone it holds nothing; by itself it drains without bound


def prefect_command(*arguments: str) -> list[str]:
    """Return a command of Prefect's own command line."""
    return [sys.executable, "-m", "prefect", *arguments]


def make_worker(workspace: Workspace, api: str, tracking: str, pool: str = POOL) -> Service:
    """Return a worker that runs flows as processes here, not started yet."""
    environment = prefect_settings(workspace) | client_environment(workspace)
    environment |= {
        "PREFECT_API_URL": api,
        "MLFLOW_TRACKING_URI": tracking,
        "TEXTMILL_ROOT": str(workspace.root),
    }
    command = prefect_command("worker", "start", "--pool", pool, "--type", "process")
    return Service("worker", command, environment, workspace.state / "logs" / "worker.log")


def stop_worker(worker: Service) -> None:
    """Let a worker's flow runs save and stop, then stop it."""
    stop_flow_runs(worker)
    worker.stop(WORKER_SECONDS)


def work(
    workspace: Workspace, api: str, tracking: str, pool: str, *, say: Callable[[str], None]
) -> None:
    """Run a worker until Ctrl-C or SIGTERM.

    Raises:
        RuntimeError: it ended by itself; the message names its log.
    """
    worker = make_worker(workspace, api, tracking, pool)

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        worker.start()
        say(f"Serving the pool {pool} of {api}. Log: {worker.log}. Ctrl-C stops it.")
        code = worker.process.wait() if worker.process else 1
        raise RuntimeError(f"the worker ended with code {code}; see {worker.log}")
    except KeyboardInterrupt:
        say("Stopping ...")
    finally:
        stop_worker(worker)
