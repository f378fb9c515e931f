"""Where the platform's services keep their state, set before Prefect is imported.

Everything lies below the project root, binds to loopback and phones nobody. While `textmill up`
runs, flows started by hand talk to its servers; otherwise a command starts a temporary server on
the same database (temporary_server.py), so that the UI later shows the same history.
"""

import json
import os
from pathlib import Path
from typing import Any

from registry.access import client_environment, credentials
from registry.db import beside, create_database
from registry.environment import configure
from registry.workspace import Workspace

PREFECT_PORT = 4200
MLFLOW_PORT = 5000
RUN_PID = "TEXTMILL_RUN_PID"  # in the environment of a temporary Prefect server: whom it serves


def services_file(workspace: Workspace) -> Path:
    """Return the file in which `textmill up` says who runs where."""
    return workspace.state / "services.json"


def running_services(workspace: Workspace) -> dict[str, Any] | None:
    """Return {pid, prefect, mlflow} of a live `textmill up` of this project, or None."""
    try:
        services: dict[str, Any] = json.loads(services_file(workspace).read_text())
        os.kill(services["pid"], 0)
    except (FileNotFoundError, ProcessLookupError, ValueError, KeyError):
        return None
    return services


def prefect_settings(workspace: Workspace) -> dict[str, str]:
    """Return the environment under which any Prefect process of this project runs."""
    database = beside(workspace.database_url, "prefect")
    address = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": with_driver(database)} if database else {}
    return address | {
        "PREFECT_HOME": str(workspace.state / "prefect"),
        "PREFECT_SERVER_API_AUTH_STRING": credentials(workspace),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # the default is pickle
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
            "prefect.server.concurrency.lease_storage.filesystem"  # the default forgets on restart
        ),
        "PREFECT_LOGGING_EXTRA_LOGGERS": "modules,registry,flows",
        "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "5",  # seconds; a request each, by default every 2
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_WORKER_QUERY_SECONDS": "2",  # how long Cancel takes to be seen
        "DO_NOT_TRACK": "1",
    }


def with_driver(address: str) -> str:
    """Return a PostgreSQL address with the driver that Prefect wants."""
    return "postgresql+asyncpg://" + address.partition("://")[2]


def client_settings(workspace: Workspace, services: dict[str, Any] | None) -> dict[str, str]:
    """Return the addresses and credentials of this project's own servers for its clients.

    Who has chosen another Prefect or MLflow sends it nothing of ours.
    """
    known = client_environment(workspace)
    prefect = services["prefect"] if services else None
    found: dict[str, str] = {"PREFECT_API_URL": prefect} if prefect else {}
    if os.environ.get("PREFECT_API_URL") in (None, prefect):
        found["PREFECT_API_AUTH_STRING"] = known["PREFECT_API_AUTH_STRING"]
    if services and workspace.tracking_uri == services["mlflow"]:
        found |= {name: known[name] for name in known if name.startswith("MLFLOW")}
    return found


def enter(root: Path | None = None) -> Workspace:
    """Open the workspace and point Prefect, MLflow and DVC at it; call before importing Prefect.

    Raises:
        ValueError: no project root was found, or its database cannot be opened.
    """
    workspace = Workspace.open(root)
    services = running_services(workspace)
    if services and "MLFLOW_TRACKING_URI" not in os.environ:
        os.environ["MLFLOW_TRACKING_URI"] = services["mlflow"]
        workspace = Workspace.open(workspace.root)
    configure(workspace)
    os.environ["TEXTMILL_ROOT"] = str(workspace.root)
    if database := beside(workspace.database_url, "prefect"):
        create_database(database)
    for name, value in (prefect_settings(workspace) | client_settings(workspace, services)).items():
        os.environ.setdefault(name, value)
    return workspace
