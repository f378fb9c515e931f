"""Ends runs whose process died: interrupted in the catalogue, killed in MLflow, crashed in Prefect.

MLflow and Prefect are told through the outbox, so either may be away when a run is found dead.
"""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from flows.settings import running_services
from registry import leases, outbox, runs
from registry.access import credentials
from registry.db import reading, write
from registry.workspace import Workspace

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0  # between two looks; with runs.STALE, a death elsewhere shows in 35 s
ANSWER_SECONDS = 3.0  # how long Prefect may take
FINAL = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}


@contextmanager
def reaping(workspace: Workspace) -> Iterator[None]:
    """Look for dead runs every few seconds, from a thread, while a block runs."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            try:
                reap(workspace)
            except Exception as error:  # a database that is away must not end the watch
                logger.warning("no look for dead runs: %s", error)

    thread = threading.Thread(target=look, name="reaper", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(LOOK_SECONDS)


def reap(workspace: Workspace) -> int:
    """End the runs of dead processes everywhere; return how many were found."""
    dead = leases.reap(workspace)
    tell_prefect(workspace)
    return len(dead)


def tell_prefect(workspace: Workspace) -> None:
    """Crash what the outbox says, if `textmill up` serves Prefect now; else it waits there."""
    services = running_services(workspace)
    with reading(workspace.database_url) as session:
        rows = outbox.pending(session, leases.PREFECT) if services else []
    if not services or not rows:
        return
    import httpx

    with (
        prefect_client(workspace, services) as client,
        suppress(httpx.HTTPError),  # the next look tries again
    ):
        for row in rows:
            with reading(workspace.database_url) as session:
                again = runs.is_running(session, row.topic)
            if not again:  # Prefect may have started the same flow run a second time
                crash(client, row.topic, str(row.payload["message"]))
            write(workspace.database_url, partial(outbox.mark_done, row_id=row.id))


def prefect_client(workspace: Workspace, services: Mapping[str, Any]) -> "httpx.Client":
    """Return a client of Prefect's API that waits for no answer long, without Prefect's import."""
    import httpx

    name, _, password = credentials(workspace).partition(":")
    return httpx.Client(base_url=services["prefect"], auth=(name, password), timeout=ANSWER_SECONDS)


def crash(client: "httpx.Client", flow_run_id: str, message: str) -> None:
    """Set a flow run to Crashed, unless it has ended or Prefect does not know it.

    Raises:
        httpx.HTTPError: Prefect does not answer, or refuses.
    """
    found = client.get(f"flow_runs/{flow_run_id}")
    if found.status_code == 404:
        return
    if found.raise_for_status().json()["state_type"] not in FINAL:
        state = {"type": "CRASHED", "name": "Interrupted", "message": message}
        asked = {"state": state, "force": True}
        client.post(f"flow_runs/{flow_run_id}/set_state", json=asked).raise_for_status()
