"""Flow runs and temporary servers that would outlive those who started them."""

import logging
from contextlib import suppress

import psutil

from flows.settings import RUN_PID, prefect_settings
from flows.supervise import STOP_SECONDS, Service
from flows.temporary_server import APP
from registry.workspace import Workspace

logger = logging.getLogger(__name__)

ORPHAN_SECONDS = 10.0


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


def orphans(workspace: Workspace) -> list[psutil.Process]:
    """Return the temporary servers of this project whose run is gone."""
    return [process for process in psutil.process_iter() if _is_orphan(process, workspace)]


def stop_orphans(workspace: Workspace) -> int:
    """Stop temporary Prefect servers that outlived the run they served; return how many.

    A run that ends in its own time stops its server; one killed with -9 cannot. On Linux the kernel
    does; elsewhere the server would write to the project's Prefect database beside the next run's.
    """
    found = orphans(workspace)
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(found, timeout=ORPHAN_SECONDS)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return len(found)


def _is_orphan(process: psutil.Process, workspace: Workspace) -> bool:
    """Tell a temporary server of this project that has lost its parent from all else."""
    home = prefect_settings(workspace)["PREFECT_HOME"]
    try:
        if APP not in process.cmdline():
            return False
        environment = process.environ()
    except psutil.Error:  # gone, or another user's
        return False
    run = environment.get(RUN_PID, "")
    ours = run.isdecimal() and environment.get("PREFECT_HOME") == home
    return ours and not psutil.pid_exists(int(run))
