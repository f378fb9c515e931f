"""Where the shards of a corpus step are worked on: processes here, or a Dask cluster.

A flow's task runner decides, and nothing else in the flow changes. Set TEXTMILL_DASK to the
address of a scheduler, or to `local` for a cluster of this machine's cores. The workers need the
same code and must see the project folder under the same path.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any

from prefect.context import FlowRunContext
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.stage import Interrupted
from modules.parallel import Spread, processes

logger = logging.getLogger(__name__)

DASK = "TEXTMILL_DASK"
DASK_LOGGING = "DASK_LOGGING__DISTRIBUTED"  # Dask says every connection at its default level


def task_runner() -> TaskRunner[Any]:
    """Return the task runner that the environment asks for.

    Raises:
        ValueError: a cluster is asked for, and prefect-dask is not installed.
    """
    address = os.environ.get(DASK)
    if not address:
        return ThreadPoolTaskRunner()
    os.environ.setdefault(DASK_LOGGING, "warning")
    try:
        from prefect_dask import DaskTaskRunner
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{DASK} is set and {error.name} is missing: pip install 'textmill[dask]'"
        ) from None
    if address == "local":
        cluster = {"threads_per_worker": 1, "dashboard_address": None}  # it would listen to all
        return DaskTaskRunner(cluster_kwargs=cluster)
    return DaskTaskRunner(address=address)


@contextmanager
def spread(workers: int) -> Iterator[Spread]:
    """Open the workers of a step: so many processes here, or those of the flow's cluster.

    Raises:
        Interrupted: a process was killed; what the others have finished is kept.
    """
    context = FlowRunContext.get()
    runner: Any = context.task_runner if context else None
    if runner is None or isinstance(runner, ThreadPoolTaskRunner):
        try:
            with processes(workers) as here:
                yield here
        except BrokenProcessPool:
            raise Interrupted(
                "a worker process was killed, perhaps for want of memory; run the same command "
                "again to continue, with fewer `workers` if it happens again"
            ) from None
    else:
        logger.info("steps run on the Dask cluster at %s", runner.client.scheduler.address)
        yield partial(_on_cluster, runner)


def _on_cluster(runner: Any, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Submit every item to a Dask runner's cluster; yield results in order."""
    futures = [runner.client.submit(function, item, pure=False) for item in items]
    return (future.result() for future in futures)
