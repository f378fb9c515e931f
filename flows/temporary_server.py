"""The Prefect server of one command, where no `textmill up` runs.

Prefect would start one itself once a flow asks for it. This one starts before Prefect and PyTorch
are imported, and beside that; the flow's process need not import a server; it is the one of `up`
(guarded, at rest between requests) without its pages and services; it hears no Ctrl-C, so the flow
can still say what became of it; and it ends with its command, however that ends.
"""

import atexit
import os
import socket
import sys

from flows.settings import RUN_PID, prefect_settings
from flows.supervise import HOST, Service
from registry.access import HOSTS
from registry.workspace import Workspace

APP = "flows.prefect_app"


def start(workspace: Workspace) -> Service | None:
    """Start the server unless there is one to talk to; call before Prefect is imported.

    Prefect's address is in the environment from now on; wait until the server answers.
    """
    if os.environ.get("PREFECT_API_URL"):
        return None
    port = str(free_port())
    environment = prefect_settings(workspace) | {
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",  # no scheduler and the like
        "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "0",  # automations are those of `up`
        HOSTS: f"{HOST}:{port}",
        RUN_PID: str(os.getpid()),
    }
    command = [sys.executable, "-m", APP, HOST, port]
    log = workspace.state / "logs" / "prefect-server.log"
    server = Service("Prefect's temporary server", command, environment, log)
    server.start()
    atexit.register(server.stop)
    os.environ["PREFECT_API_URL"] = f"http://{HOST}:{port}/api"
    return server


def free_port() -> int:
    """Return a port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
