"""`textmill up`: Prefect server, MLflow server and a worker, supervised until Ctrl-C.

Servers bind to loopback unless told otherwise, and stand behind registry/access.py. A crashed one
is started again; Ctrl-C or SIGTERM stops all of them, the worker first so that running flows can
write their checkpoints.
"""

import fcntl
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.reaper import reaping
from flows.settings import prefect_settings, services_file
from flows.supervise import HOST, Service, port_is_free, supervise, wait_for
from flows.temporary_server import APP
from flows.worker import POOL, make_worker, prefect_command, stop_worker
from modules.files import write_json
from registry.access import HOSTS, credentials, origins, secret_file
from registry.server import server_command
from registry.workspace import Workspace

logger = logging.getLogger(__name__)


@contextmanager
def only_one(workspace: Workspace) -> Iterator[None]:
    """Hold the project's `up` lock.

    Raises:
        ValueError: another `textmill up` of this project holds it.
    """
    with (workspace.state / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"`textmill up` is already running for {workspace.root}; "
                "its addresses are printed by `textmill status`"
            ) from None
        try:
            yield
        finally:
            services_file(workspace).unlink(missing_ok=True)


@dataclass(frozen=True)
class Addresses:
    """Where the two servers listen, and the names they answer to."""

    prefect_port: int
    mlflow_port: int
    host: str = HOST
    names: tuple[str, ...] = ()

    def check(self) -> None:
        """Find out that they cannot be served before anything starts.

        Raises:
            ValueError: a port is taken, or a host that others reach has no name they reach it by.
        """
        if self.host not in (HOST, "localhost") and not self.names:
            raise ValueError(
                f"--host {self.host} lets other machines in; say by which name they reach it: "
                "--allow-host NAME (repeatable). Put TLS in front: credentials travel in clear"
            )
        for port, flag in (
            (self.prefect_port, "--prefect-port"),
            (self.mlflow_port, "--mlflow-port"),
        ):
            if not port_is_free(port, self.here):
                raise ValueError(f"port {port} is taken; choose another one with {flag}")

    @property
    def here(self) -> str:
        """The address by which this machine itself reaches them."""
        return HOST if self.host in (HOST, "localhost", "0.0.0.0") else self.host

    def hosts(self, port: int) -> list[str]:
        """Return what Host may be; a name with a port of its own (a proxy's) is taken as it is."""
        own = [f"{name}:{port}" for name in dict.fromkeys((HOST, "localhost", self.here))]
        return own + [name if ":" in name else f"{name}:{port}" for name in self.names]


def make_services(workspace: Workspace, at: Addresses) -> list[Service]:
    """Return the Prefect server, the MLflow server and the worker, not started yet."""
    api, tracking = urls(at)
    logs = workspace.state / "logs"
    environment = prefect_settings(workspace) | {
        "PREFECT_API_URL": api,
        "PREFECT_API_AUTH_STRING": credentials(workspace),
        "TEXTMILL_POOL": POOL,
        "PREFECT_SERVER_API_PORT": str(at.prefect_port),
        "TEXTMILL_ROOT": str(workspace.root),
    }
    names = at.hosts(at.prefect_port)
    server = Service(
        "Prefect server",
        [sys.executable, "-m", APP, at.host, str(at.prefect_port)],
        environment
        | {
            "PREFECT_UI_API_URL": "/api",  # as the browser reaches it, by whatever name
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(sorted(origins(names))),
            HOSTS: ",".join(names),
        },
        logs / "prefect-server.log",
    )
    store = Workspace.own_tracking(workspace.root, workspace.database_url)
    command, mlflow_environment = server_command(
        workspace, store, at.host, at.mlflow_port, at.hosts(at.mlflow_port)
    )
    mlflow = Service("MLflow server", command, mlflow_environment, logs / "mlflow-server.log")
    return [server, mlflow, make_worker(workspace, api, tracking)]


def urls(at: Addresses) -> tuple[str, str]:
    """Return the addresses by which this machine reaches Prefect's API and MLflow."""
    return f"http://{at.here}:{at.prefect_port}/api", f"http://{at.here}:{at.mlflow_port}"


def up(
    workspace: Workspace,
    at: Addresses,
    *,
    say: Callable[[str], None],
    once_ready: Callable[[], None] | None = None,
) -> None:
    """Run all services until Ctrl-C or SIGTERM.

    Raises:
        ValueError: a port is taken, or the project is already up.
        RuntimeError: a service does not start, or crashes again and again.
    """
    at.check()
    api, tracking = urls(at)
    known = credentials(workspace)
    services = server, mlflow, worker = make_services(workspace, at)

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = {s: signal.signal(s, interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
    with only_one(workspace), reaping(workspace):
        try:
            say("Starting the Prefect and MLflow servers (half a minute on a small machine) ...")
            server.start()
            mlflow.start()
            wait_for(server, f"{api}/health", known)
            say("Registering the deployments and their schedules ...")
            deploy(workspace, server.environment)
            worker.start()
            wait_for(mlflow, f"{tracking}/health", known)
            write_json(
                services_file(workspace),
                {"pid": os.getpid(), "prefect": api, "mlflow": tracking},
            )
            say(
                f"Prefect UI   http://{at.here}:{at.prefect_port}/deployments\n"
                f"MLflow UI    {tracking}/#/models?workflowType=machine_learning\n"
                f"Log in with  the text of {secret_file(workspace)}: Prefect asks for all of it, "
                "MLflow for name and password (before and after the colon)\n"
                f"Logs         {server.log.parent}\n"
                "Runs started now by `textmill run` show up there. Ctrl-C stops everything."
            )
            if once_ready:
                once_ready()
            supervise(services)
        except KeyboardInterrupt:
            say("Stopping ...")
        finally:
            stop_worker(worker)
            mlflow.stop()
            server.stop()
            for number, handler in previous.items():
                signal.signal(number, handler)


def deploy(workspace: Workspace, environment: dict[str, str]) -> None:
    """Create the work pool and every deployment of flows/prefect.yaml.

    Raises:
        RuntimeError: Prefect refused; the message holds the end of what it said.
    """
    steps = [
        prefect_command("work-pool", "create", POOL, "--type", "process", "--overwrite"),
        prefect_command(
            "--no-prompt",
            "deploy",
            "--all",
            "--prefect-file",
            str(Path(__file__).with_name("prefect.yaml")),
        ),
    ]
    steps.append([sys.executable, "-m", "flows.automations"])
    for step in steps:
        done = subprocess.run(
            step,
            env=os.environ | environment,
            cwd=workspace.root,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            raise RuntimeError(
                f"{' '.join(step[2:])} failed:\n{(done.stdout + done.stderr)[-2000:]}"
            )
