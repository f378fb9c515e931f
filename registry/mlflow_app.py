"""MLflow's server behind the guard: the application `mlflow server --app-name textmill` runs."""

from mlflow.server.fastapi_app import app as mlflow_app

from registry.access import Guard, allowed_hosts, credentials
from registry.workspace import Workspace


def create_app() -> Guard:
    """Return MLflow's application; nothing of it answers without credentials."""
    return Guard(mlflow_app, credentials(Workspace.open()), allowed_hosts())
