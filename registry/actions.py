"""What MLflow can be told: runs and their numbers, model versions, aliases."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry import artifacts, card, catalogue, db, projection, served
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
    told = None
    while (row := _holder(ws, payload)) != told:  # moved while it was told: tell that as well
        name, number = row
        client.set_registered_model_alias(name, payload["alias"], str(number))
        told = row


def _holder(ws: Workspace, payload: dict[str, Any]) -> tuple[str, int]:
    """Return who holds an alias: the model's name and MLflow's number of the version."""
    with db.reading(ws.database_url) as session:
        row = catalogue.find_alias(session, payload["name"], payload["alias"])
    assert row is not None, "aliases move, they do not go away"
    if row.mlflow_version is None:
        raise ConnectionError(f"mlflow does not know {row.name} version {row.version} yet")
    return row.name, row.mlflow_version


def _known_version(client: "MlflowClient", name: str, fingerprint: str) -> "MlflowVersion | None":
    """Return MLflow's version of a checkpoint."""
    for found in client.search_model_versions(f"name = '{name}'"):
        if found.tags.get(FINGERPRINT) == fingerprint:
            return found
    return None


def _new_version(ws: Workspace, client: "MlflowClient", payload: dict[str, Any]) -> "MlflowVersion":
    """Package the checkpoint and make a version of it whose weights stay in DVC.

    MLflow checks local and server-side sources against the run's folder; of any other scheme it
    asks only that the path has no relative parts, and leaves it to the scheme's repository.
    """
    checkpoint = artifacts.checkout(ws, payload["fingerprint"])
    run = run_id(ws, payload["run"])
    text = card.write(ws, payload["name"], payload["version"])
    model = served.package(ws, payload["name"], checkpoint, text)
    place = f"models/{payload['name']}/{payload['version']}"  # a run may make several models
    client.log_text(run, text, f"{place}/{served.CARD}")
    tags = {
        FINGERPRINT: payload["fingerprint"],
        "textmill.version": str(payload["version"]),
        "textmill.model": model.reference,
    }
    return client.create_model_version(
        payload["name"],
        source=served.source(model),
        run_id=run,
        tags=payload["tags"] | tags,
        description=card.shortened(text),
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
