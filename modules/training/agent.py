"""What starts and watches the ranks of one machine: torch.distributed.run, and how it all ended.

Ranks are processes of modules.training.fit with RANK in their environment. When one dies, the agent
ends the others and starts all again, from the last checkpoint.
"""

import json
import logging
import math
import os
from pathlib import Path
from typing import Any

from modules.training.events import EventFile, beside

log = logging.getLogger(__name__)

RESTARTS = 3  # as in TrainingConfig
LASTING = ("ValueError", "ValidationError", "FileNotFoundError", "FloatingPointError")


def ranks_of(config: dict[str, Any]) -> int:
    """Return how many processes a training config wants, over all machines."""
    return math.prod(config.get(name, 1) for name in ("devices", "nodes"))


def run_ranks(path: Path, job: dict[str, Any]) -> str:
    """Run this machine's ranks of a job to the end; return the state that the run ended in.

    The agent answers SIGTERM by passing it on and waiting. The status file says how it went, for
    the agent's own exit code does not (ECOSYSTEM.md C.2).
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    # Ranks that start again would find the addresses of the dead in the agent's store and wait for
    # them: let rank 0 open a store of its own each time (pytorch issue 135712).
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    emit = EventFile(Path(job["events"]))
    emit.status("starting")
    try:
        torchrun([*arguments(job["config"]), "-m", "modules.training.fit", str(path)])
    except SignalException:
        if state_of(emit.path) in ("starting", "running"):  # they had no time to save
            emit.status("interrupted")
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        log.error("the ranks ended: %s", error)
        first = lasting_error(emit.path) or f"rank {rank}: {failure.message}"
        emit.status("failed", error=first)
    return state_of(emit.path)


def arguments(config: dict[str, Any]) -> list[str]:
    """Return torch.distributed.run's arguments; between machines it reads the rest from PET_*."""
    nodes = config.get("nodes", 1)
    where = ["--standalone"] if nodes == 1 else ["--nnodes", str(nodes)]
    devices, restarts = config.get("devices", 1), config.get("restarts", RESTARTS)
    return [*where, "--nproc-per-node", str(devices), "--max-restarts", str(restarts)]


def tell_agent(error: Exception) -> None:
    """Leave a rank's error where the agent looks for what ended the first of its ranks."""
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    get_error_handler().record_exception(error)


def lasting_error(events: Path) -> str:
    """Return the error that ended an attempt, if the next one would meet it again; else ""."""
    status = read_status(events)
    error = str(status.get("error", "")) if status.get("state") == "failed" else ""
    return error if error.startswith(LASTING) else ""


def state_of(events: Path) -> str:
    """Return the state in the status file beside an event file."""
    return str(read_status(events).get("state", "failed"))


def read_status(events: Path) -> dict[str, Any]:
    """Return the status beside an event file; empty where there is none."""
    path = beside(events, "status")
    return dict(json.loads(path.read_text())) if path.exists() else {}
