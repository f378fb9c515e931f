"""The one place that sets environment variables for MLflow and DVC, in this process and below."""

import os

from registry.workspace import TRACKING, TRACKING_DEFAULT, Workspace


def configure(ws: Workspace) -> None:
    """Set what MLflow and DVC read from the environment, keeping what the user has set.

    Call it before mlflow is imported: some of its settings are read on import.
    """
    if os.environ.get(TRACKING) in (None, os.environ.get(TRACKING_DEFAULT)):
        os.environ[TRACKING] = os.environ[TRACKING_DEFAULT] = ws.tracking_uri
    for name, value in settings(ws).items():
        os.environ.setdefault(name, value)


def settings(ws: Workspace) -> dict[str, str]:
    """Return the variables: where to track, nobody phoned, nothing waited for long."""
    return {
        TRACKING: ws.tracking_uri,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # a dead server would block 247 s per call
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",  # seconds
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # it fills the flow's log
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_MODEL_CATALOG_URI": "",
        "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
        "DVC_STUDIO_OFFLINE": "1",
        "DVC_SITE_CACHE_DIR": str(ws.state / "dvc-site"),  # not the shared /var/tmp/dvc
        "GIT_PYTHON_REFRESH": "quiet",
    }
