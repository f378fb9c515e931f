"""How the MLflow server of a project is started."""

import sys

from registry.environment import settings
from registry.workspace import Workspace


def server_command(ws: Workspace, host: str, port: int) -> tuple[list[str], dict[str, str]]:
    """Return command and environment of an MLflow server on this project's own store.

    One worker and no job execution: 2 processes instead of 15, up in seconds. Only the names it is
    reached by on loopback are allowed as Host (the default's wildcards can be rebound).
    """
    store = f"sqlite:///{ws.state / 'mlflow.db'}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
    command += ["--artifacts-destination", str(ws.state / "mlflow-artifacts")]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    command += ["--allowed-hosts", f"{host}:{port},localhost:{port}"]
    command += ["--cors-allowed-origins", f"http://{host}:{port}"]
    environment = settings(ws) | {
        "MLFLOW_TRACKING_URI": store,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    return command, environment
