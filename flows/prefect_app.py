"""Prefect's server behind the guard: `python -m flows.prefect_app HOST PORT`.

The files of its UI are open, since its own login page is among them. All else needs credentials:
requests are asked by the guard, websockets by Prefect itself, which is given the same ones.
"""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import FrameType
from typing import Any

import uvicorn
from prefect.server.api import server
from prefect.server.database.orm_models import FlowRun, TaskRun

from registry.access import Guard, Scope, allowed_hosts, credentials
from registry.workspace import Workspace

PROBES = ("/api/health", "/api/ready")  # say true, and are asked by the login page


def let_schedules_insert() -> None:
    """Have SQLAlchemy 2.1 insert flow runs whose rows hold a `state`, as 2.0 did.

    Prefect 3.8.8's scheduler inserts such rows in bulk and writes the states after them. 2.1 asks
    the property how a bulk insert sets it and finds no answer: no scheduled run was ever made.
    """
    for model in (FlowRun, TaskRun):
        model.__dict__["state"].bulk_dml_setter = lambda cls, mapping, value: None


@asynccontextmanager
async def no_background_worker(*arguments: Any, **named: Any) -> AsyncIterator[None]:
    """Stand in for the worker of tasks that the server of one command does not have.

    They clean up after deployments, schedules, cancels and old events, which `textmill up` does;
    looking for them took 2 % of a core.
    """
    yield


def create_app() -> Guard:
    """Return Prefect's application; a route that is not of its UI is closed without credentials."""
    let_schedules_insert()
    if os.environ.get("PREFECT__SERVER_EPHEMERAL"):
        server.background_worker = no_background_worker
    app = server.create_app(final=True)
    closed = [route.path for route in app.routes if route.name != "ui"]  # type: ignore[attr-defined]

    def is_open(scope: Scope) -> bool:
        if scope["type"] == "websocket":
            return True
        path = scope["path"]
        if path in PROBES:
            return True
        inside = any(path == prefix or path.startswith(f"{prefix}/") for prefix in closed)
        return scope["method"] in ("GET", "HEAD") and not inside

    found = credentials(Workspace.open())
    return Guard(app, found, allowed_hosts(), is_open=is_open, prompts=False)


class RestingServer(uvicorn.Server):
    """uvicorn that looks once a second for what it has to do besides requests, not ten times.

    Half of what it took at rest went there (0.63 % of a core, now 0.33; bench/README.md).
    """

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal, which is answered at once."""
        self._loop, self._signalled = asyncio.get_running_loop(), asyncio.Event()
        await super().serve(sockets)

    async def main_loop(self) -> None:
        """Do once a second what uvicorn does besides requests."""
        while not await self.on_tick(0):  # 0: bring the date in the headers up to date
            with suppress(TimeoutError):
                await asyncio.wait_for(self._signalled.wait(), timeout=1.0)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note the signal, as uvicorn does, and wake the loop."""
        super().handle_exit(sig, frame)
        self._loop.call_soon_threadsafe(self._signalled.set)


def main() -> None:
    """Serve until a signal; the address is in the arguments."""
    host, port = sys.argv[1:]
    config = uvicorn.Config(
        create_app, factory=True, host=host, port=int(port), log_level="warning"
    )
    server = RestingServer(config)
    with suppress(KeyboardInterrupt):
        server.run()
    sys.exit(not server.started)


if __name__ == "__main__":
    main()
