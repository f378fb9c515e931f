"""What MLflow can be told: runs and their numbers, model versions, aliases."""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry import artifacts, catalogue, db, projection, served
from registry.tables import ModelVersion
from registry.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion

LOCAL = "local-"  # begins the id of a run that MLflow has not been told of
BATCH = 1000  # metrics in one request: MLflow's limit
FINGERPRINT = "textmill.fingerprint"


def run_id(ws: Workspace, given: str) -> str:
    """Return MLflow's id of a run that may have been started while MLflow was away.

    Raises:
        ConnectionError: MLflow has not been told of that run yet.
    """
    if not given.startswith(LOCAL):
        return given
    found = projection.result_of(ws, "start", given)
    if found is None:
        raise ConnectionError(f"mlflow does not know run {given} yet")
    return found


def start(ws: Workspace, client: "MlflowClient", payload: dict[str, Any]) -> str:
    """Create a run, unless a try before this one did."""
    from mlflow.entities import Param

    experiment = projection.experiment_id(ws)
    query = f"tags.`textmill.start` = '{payload['key']}'"
    if projection.REPLAYED in payload and (found := client.search_runs([experiment], query)):
        return str(found[0].info.run_id)
    tags = payload["tags"] | {"textmill.start": payload["key"]}
    if parent := payload["parent"]:
        tags["mlflow.parentRunId"] = run_id(ws, parent)
    run = client.create_run(
        experiment, start_time=payload["time"], tags=tags, run_name=payload["name"]
    )
    params = [Param(key, value) for key, value in payload["params"].items()]
    for begin in range(0, len(params), 100):  # MLflow's limit
        client.log_batch(run.info.run_id, params=params[begin : begin + 100])
    return str(run.info.run_id)


def metrics(ws: Workspace, client: "MlflowClient", payload: dict[str, Any]) -> None:
    """Log points (name, value, step, time in ms)."""
    from mlflow.entities import Metric

    run = run_id(ws, payload["run"])
    points = [
        Metric(name, float(value), when, step) for name, value, step, when in payload["points"]
    ]
    for begin in range(0, len(points), BATCH):
        client.log_batch(run, metrics=points[begin : begin + BATCH])


def tags(ws: Workspace, client: "MlflowClient", payload: dict[str, Any]) -> None:
    """Set tags of a run."""
    from mlflow.entities import RunTag

    rows = [RunTag(key, value) for key, value in payload["tags"].items()]
    client.log_batch(run_id(ws, payload["run"]), tags=rows)


def artifact(ws: Workspace, client: "MlflowClient", payload: dict[str, Any]) -> None:
    """Upload a file kept in the spool, then drop it there."""
    spooled = Path(payload["file"])
    if spooled.exists():
        client.log_artifact(run_id(ws, payload["run"]), str(spooled), payload["folder"])
        shutil.rmtree(spooled.parent)


def finish(ws: Workspace, client: "MlflowClient", payload: dict[str, Any]) -> None:
    """Set how a run ended, and when."""
    client.set_terminated(run_id(ws, payload["run"]), payload["status"], payload["time"])


def resume(ws: Workspace, client: "MlflowClient", payload: dict[str, Any]) -> None:
    """Set a run that goes on back to RUNNING."""
    client.update_run(run_id(ws, payload["run"]), status="RUNNING")


def register(ws: Workspace, client: "MlflowClient", payload: dict[str, Any]) -> str:
    """Create the model version of a checkpoint, unless a try before this one did."""
    from mlflow.exceptions import MlflowException

    name, version, fingerprint = payload["name"], payload["version"], payload["fingerprint"]
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = _known_version(client, name, fingerprint) or _new_version(ws, client, payload)

    def note(session: Any) -> None:
        session.get(ModelVersion, (name, version)).mlflow_version = int(made.version)

    db.write(ws.database_url, note)
    return str(made.version)


def alias(ws: Workspace, client: "MlflowClient", payload: dict[str, Any]) -> None:
    """Set an alias to what the catalogue says now, whatever it was when this was noted."""
    with db.reading(ws.database_url) as session:
        row = catalogue.find_alias(session, payload["name"], payload["alias"])
    assert row is not None, "aliases move, they do not go away"
    if row.mlflow_version is None:
        raise ConnectionError(f"mlflow does not know {row.name} version {row.version} yet")
    client.set_registered_model_alias(row.name, payload["alias"], str(row.mlflow_version))


def _known_version(client: "MlflowClient", name: str, fingerprint: str) -> "MlflowVersion | None":
    """Return MLflow's version of a checkpoint."""
    for found in client.search_model_versions(f"name = '{name}'"):
        if found.tags.get(FINGERPRINT) == fingerprint:
            return found
    return None


def _new_version(ws: Workspace, client: "MlflowClient", payload: dict[str, Any]) -> "MlflowVersion":
    """Save the checkpoint as a pyfunc model under its run, and make a version of it."""
    checkpoint = artifacts.checkout(ws, payload["fingerprint"])
    run = run_id(ws, payload["run"])
    place = f"models/{payload['name']}/{payload['version']}"  # a run may make several models
    with tempfile.TemporaryDirectory(dir=ws.state) as folder:
        model = Path(folder) / "model"
        served.save(checkpoint, model)
        client.log_artifacts(run, str(model), place)
    source = f"{client.get_run(run).info.artifact_uri}/{place}"
    tags = {FINGERPRINT: payload["fingerprint"], "textmill.version": str(payload["version"])}
    return client.create_model_version(
        payload["name"], source=source, run_id=run, tags=payload["tags"] | tags
    )


ACTIONS: dict[str, projection.Action] = {
    "start": start,
    "metrics": metrics,
    "tags": tags,
    "artifact": artifact,
    "finish": finish,
    "resume": resume,
    "register": register,
    "alias": alias,
}
