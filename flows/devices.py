"""Which device a training takes, and how many trainings run on it at once: named limits.

How many slots a device has is a global concurrency limit of Prefect (textmill-cpu: one slot a core,
textmill-cuda-0: one training a GPU), made when missing, to be seen and changed in its UI; 0 pauses.
Who holds the slots is told by file locks below .textmill/, not by the server: Prefect takes the
slots of a killed run back after its lease (60 s at least), and only a server with its services on
does so; the temporary server of `textmill run` has none, and the slots would stay taken for good.
The kernel drops a lock at once, however its holder dies, and the training dies with its flow.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from httpx import HTTPError
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from modules.training.config import TrainingConfig
from registry.files import BusyError, locked
from registry.workspace import Workspace

logger = logging.getLogger(__name__)

POLL = 0.5  # seconds between tries for a slot
ASK = 30.0  # seconds for which the size of a limit is remembered
_sizes: dict[str, tuple[float, int]] = {}  # name -> when it was asked for, slots
UNBOUND = 1024  # slots of a limit that is switched off in the UI


@dataclass(frozen=True)
class Need:
    """What a training takes: so many slots of each of these limits, and how it is told its GPU."""

    slots: Mapping[str, int]
    environment: Mapping[str, str]


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def needs(config: TrainingConfig) -> list[Need]:
    """Return what a training could run on; the first that is free is taken."""
    if config.accelerator == "cpu" or config.device_kind == "cpu":
        return [Need({"textmill-cpu": config.threads or cores()}, {})]
    gpus = config.visible_gpus
    if config.devices > 1:
        return [Need({f"textmill-cuda-{gpu}": 1 for gpu in gpus[: config.devices]}, {})]
    return [Need({f"textmill-cuda-{gpu}": 1}, {"CUDA_VISIBLE_DEVICES": gpu}) for gpu in gpus]


@contextmanager
def device(
    workspace: Workspace,
    config: TrainingConfig,
    *,
    waiting: Callable[[str], None],
) -> Iterator[Mapping[str, str]]:
    """Hold slots for a training; yield what its process finds in its environment.

    Args:
        waiting: called with the limits' names at each try that fails; may raise to give up.
    """
    choices = needs(config)
    names = sorted({name for need in choices for name in need.slots})
    while True:
        sizes = {name: size_of(name) for name in names}
        for need in choices:
            if held := take(workspace, need, sizes):
                with held:
                    yield need.environment
                return
        waiting(", ".join(names))
        time.sleep(POLL)


def take(workspace: Workspace, need: Need, sizes: Mapping[str, int]) -> ExitStack | None:
    """Lock all the slots that are needed, or none of them."""
    folder = workspace.state / "locks" / "devices"
    with ExitStack() as held:
        for name, count in need.slots.items():
            missing = max(1, min(count, sizes[name]))
            for place in range(sizes[name]):
                path = folder / f"{socket.gethostname()}.{name}.{place}.lock"
                with suppress(BusyError):
                    held.enter_context(locked(path, wait=False))
                    missing -= 1
                if not missing:
                    break
            if missing:
                return None
        return held.pop_all()


def size_of(name: str) -> int:
    """Return how many slots a limit has in Prefect, now or up to 30 seconds ago."""
    now = time.monotonic()
    asked, size = _sizes.get(name, (-ASK, 0))
    if now - asked >= ASK:
        asked, size = _sizes[name] = now, ask(name)
    return size


def ask(name: str) -> int:
    """Return how many slots a limit has in Prefect now; it is made where it is missing."""
    default = cores() if name == "textmill-cpu" else 1
    try:
        with get_client(sync_client=True) as client:
            try:
                limit = client.read_global_concurrency_limit_by_name(name)
                return limit.limit if limit.active else UNBOUND
            except ObjectNotFound:
                new = GlobalConcurrencyLimitCreate(name=name, limit=default, active=True)
                with suppress(ObjectAlreadyExists):  # another run was faster
                    client.create_global_concurrency_limit(new)
    except HTTPError as error:  # training goes on without the server
        logger.warning("limit %s cannot be asked for (%s): %d slots", name, error, default)
    return default
