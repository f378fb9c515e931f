"""`textmill up`: Prefect server, MLflow server and a worker, supervised until Ctrl-C.

All three bind to loopback. A crashed one is started again; Ctrl-C or SIGTERM stops all of them, the
worker first so that running flows can write their checkpoints.
"""

import ctypes
import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from flows.settings import RUN_PID, prefect_settings, services_file
from modules.files import write_json
from registry.server import server_command
from registry.workspace import Workspace

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
POOL = "local"
START_SECONDS = 180.0  # servers took up to 78 s on a loaded 2-core machine
STOP_SECONDS = 35.0  # Prefect gives a flow 30 s between SIGTERM and SIGKILL
WORKER_SECONDS = 3.0  # once its runs are gone it holds nothing; by itself it drains without bound
PR_SET_PDEATHSIG = 1  # linux/prctl.h
LIBC = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
ORPHAN_SECONDS = 10.0
RESTARTS = 5  # within one `up`; after that something is wrong that a restart does not mend


def _stop_with_parent() -> None:
    """Have the kernel send SIGTERM when `up` dies without a word (runs in the new child)."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class Service:
    """One supervised child process in its own session."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0

    def start(self) -> None:
        """Start the child; its output is appended to the log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=os.environ | self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=_stop_with_parent,
            )

    def died(self) -> int | None:
        """Return the exit code of a child that is gone, or None."""
        return self.process.poll() if self.process else None

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Ask the child to stop, then kill what is left of its process group."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            logger.warning("%s did not stop in %.0f s: killed", self.name, seconds)
        with suppress(ProcessLookupError):  # the group is empty: all of it stopped
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def port_is_free(port: int) -> bool:
    """Tell whether a server could listen on this loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def answers(url: str) -> bool:
    """Tell whether a health page answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=3) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def wait_for(service: Service, url: str, seconds: float = START_SECONDS) -> None:
    """Wait until a service answers.

    Raises:
        RuntimeError: it ended or did not answer in time; the message names its log.
    """
    deadline = time.monotonic() + seconds
    while not answers(url):
        if service.died() is not None:
            raise RuntimeError(f"{service.name} ended while starting; see {service.log}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{service.name} did not answer in {seconds:.0f} s: {service.log}")
        time.sleep(0.5)


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


def _prefect(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "prefect", *arguments]


def up(
    workspace: Workspace,
    prefect_port: int,
    mlflow_port: int,
    *,
    say: Callable[[str], None],
    once_ready: Callable[[], None] | None = None,
) -> None:
    """Run all services until Ctrl-C or SIGTERM.

    Raises:
        ValueError: a port is taken, or the project is already up.
        RuntimeError: a service does not start, or crashes again and again.
    """
    for port, flag in ((prefect_port, "--prefect-port"), (mlflow_port, "--mlflow-port")):
        if not port_is_free(port):
            raise ValueError(f"port {port} is taken; choose another one with {flag}")
    api = f"http://{HOST}:{prefect_port}/api"
    tracking = f"http://{HOST}:{mlflow_port}"
    environment = prefect_settings(workspace) | {
        "PREFECT_API_URL": api,
        "PREFECT_UI_API_URL": api,
        "PREFECT_SERVER_API_PORT": str(prefect_port),
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{HOST}:{prefect_port}",
        "TEXTMILL_ROOT": str(workspace.root),
    }
    logs = workspace.state / "logs"
    command, mlflow_environment = server_command(workspace, HOST, mlflow_port)
    server = Service(
        "Prefect server",
        _prefect("server", "start", "--host", HOST, "--port", str(prefect_port)),
        environment,
        logs / "prefect-server.log",
    )
    mlflow = Service("MLflow server", command, mlflow_environment, logs / "mlflow-server.log")
    worker = Service(
        "worker",
        _prefect("worker", "start", "--pool", POOL, "--type", "process"),
        environment | {"MLFLOW_TRACKING_URI": tracking},
        logs / "worker.log",
    )
    services = [server, mlflow, worker]

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = {s: signal.signal(s, interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
    with only_one(workspace):
        try:
            say("Starting the Prefect and MLflow servers (half a minute on a small machine) ...")
            server.start()
            mlflow.start()
            wait_for(server, f"{api}/health")
            say("Registering the deployments and their schedules ...")
            deploy(workspace, environment)
            worker.start()
            wait_for(mlflow, f"{tracking}/health")
            write_json(
                services_file(workspace),
                {"pid": os.getpid(), "prefect": api, "mlflow": tracking, "logs": str(logs)},
            )
            say(
                f"Prefect UI   http://{HOST}:{prefect_port}/deployments\n"
                f"MLflow UI    {tracking}/#/models?workflowType=machine_learning\n"
                f"Logs         {logs}\n"
                "Runs started now by `textmill run` show up there. Ctrl-C stops everything."
            )
            if once_ready:
                once_ready()
            supervise(services)
        except KeyboardInterrupt:
            say("Stopping ...")
        finally:
            stop_flow_runs(worker)
            worker.stop(WORKER_SECONDS)
            mlflow.stop()
            server.stop()
            for number, handler in previous.items():
                signal.signal(number, handler)


def stop_flow_runs(worker: Service) -> None:
    """Ask the worker's flow runs to save and stop; without this they would live on as orphans."""
    if worker.process is None or worker.died() is not None:
        return
    children = psutil.Process(worker.process.pid).children(recursive=True)
    runs = [child for child in children if "prefect.engine" in _command_of(child)]
    for run in runs:
        with suppress(psutil.NoSuchProcess):
            run.terminate()
    _, alive = psutil.wait_procs(runs, timeout=STOP_SECONDS)
    for run in alive:
        logger.warning("flow run process %d did not stop: killed", run.pid)
        run.kill()


def _command_of(process: psutil.Process) -> list[str]:
    try:
        found: list[str] = process.cmdline()
    except psutil.NoSuchProcess:
        return []
    return found


def stop_orphans(workspace: Workspace) -> int:
    """Stop temporary Prefect servers that outlived the run they served; return how many.

    A run that ends in its own time stops its server; one killed with -9 cannot, and the server
    would write to the project's Prefect database beside the next run's for ever.
    """
    orphans = [process for process in psutil.process_iter() if _is_orphan(process, workspace)]
    for process in orphans:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(orphans, timeout=ORPHAN_SECONDS)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return len(orphans)


def _is_orphan(process: psutil.Process, workspace: Workspace) -> bool:
    """Tell a temporary server of this project that has lost its parent from all else."""
    home = prefect_settings(workspace)["PREFECT_HOME"]
    try:
        if "prefect.server.api.server:create_app" not in process.cmdline():
            return False
        environment = process.environ()
    except psutil.Error:  # gone, or another user's
        return False
    run = environment.get(RUN_PID, "")
    ours = run.isdecimal() and environment.get("PREFECT_HOME") == home
    return ours and not psutil.pid_exists(int(run))


def deploy(workspace: Workspace, environment: dict[str, str]) -> None:
    """Create the work pool and every deployment of flows/prefect.yaml.

    Raises:
        RuntimeError: Prefect refused; the message holds the end of what it said.
    """
    steps = [
        _prefect("work-pool", "create", POOL, "--type", "process", "--overwrite"),
        _prefect(
            "--no-prompt",
            "deploy",
            "--all",
            "--prefect-file",
            str(Path(__file__).with_name("prefect.yaml")),
        ),
    ]
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


def supervise(services: list[Service]) -> None:
    """Watch the services for ever; start a crashed one again.

    Raises:
        RuntimeError: one crashed more than RESTARTS times.
    """
    while True:
        time.sleep(1.0)
        for service in services:
            code = service.died()
            if code is None:
                continue
            service.restarts += 1
            if service.restarts > RESTARTS:
                raise RuntimeError(f"{service.name} keeps ending (code {code}); see {service.log}")
            logger.warning("%s ended with code %s: started again", service.name, code)
            service.start()
