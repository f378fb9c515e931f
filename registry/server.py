"""How the MLflow server of a project is started."""

import sys
from dataclasses import replace
from importlib.metadata import entry_points

from registry.access import HOSTS
from registry.environment import settings
from registry.projection import create_store
from registry.workspace import Workspace


def server_command(
    ws: Workspace, store: str, host: str, port: int, names: list[str]
) -> tuple[list[str], dict[str, str]]:
    """Return command and environment of an MLflow server on a database, behind the guard.

    The database is made here: the server would make an SQLite file beside a client that does the
    same, and no PostgreSQL database at all.

    One worker and no job execution: 2 processes instead of 15, up in seconds. `names` (NAME:PORT)
    are what it is reached by; the default's wildcards can be rebound.

    Raises:
        ValueError: the installed package does not know the guarded application yet.
    """
    if not entry_points(group="mlflow.app", name="textmill"):
        raise ValueError("textmill is installed from older code than this: run `make install`")
    create_store(replace(ws, tracking_uri=store))
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--backend-store-uri", store]
    command += ["--app-name", "textmill"]
    command += ["--artifacts-destination", str(ws.state / "mlflow-artifacts")]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    command += ["--allowed-hosts", ",".join(names)]
    command += ["--cors-allowed-origins", ",".join(f"http://{name}" for name in names)]
    environment = settings(ws) | {
        "MLFLOW_TRACKING_URI": store,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "TEXTMILL_ROOT": str(ws.root),
        HOSTS: ",".join(names),
    }
    return command, environment
