"""Where MLflow's aliases and runs differ from ours, and how aliases are set right.

The catalogue decides. An alias that somebody moved or removed in MLflow's UI, or that two machines
told in the wrong order, is shown by `drift` and put back by `mend`.
"""

from dataclasses import dataclass

from sqlalchemy import select

from registry import catalogue, db, outbox, projection
from registry.tables import Run, Status
from registry.tracking import RunStatus
from registry.workspace import Workspace

MOST = 1000  # open runs looked at
ENDED: dict[Status, RunStatus] = {
    Status.COMPLETED: "FINISHED",
    Status.FAILED: "FAILED",
    Status.INTERRUPTED: "KILLED",
}


@dataclass(frozen=True)
class Drift:
    """One alias that stands elsewhere in MLflow; its versions are MLflow's numbers."""

    name: str
    alias: str
    ours: int | None  # None: MLflow does not know the version yet
    theirs: int | None  # None: MLflow has no such alias

    def __str__(self) -> str:
        return (
            f"{self.name}@{self.alias} is version {self.theirs} in MLflow, {self.ours} by the "
            "catalogue"
        )


def drift(ws: Workspace) -> list[Drift]:
    """Return the aliases that stand elsewhere in MLflow, but for moves that still wait to be told.

    Raises:
        MlflowException: the server does not answer.
    """
    with db.reading(ws.database_url) as session:
        waiting = {row.topic for row in outbox.pending(session, projection.SYSTEM)}
        ours = {
            (row.name, row.alias): version.mlflow_version
            for row in catalogue.list_aliases(session)
            if (version := catalogue.find_model(session, row.name, row.version)) is not None
        }
    theirs = {name: _aliases(ws, name) for name in {name for name, _ in ours} - waiting}
    return [
        Drift(name, alias, version, theirs[name].get(alias))
        for (name, alias), version in ours.items()
        if name in theirs and theirs[name].get(alias) != version
    ]


def mend(ws: Workspace, found: list[Drift]) -> None:
    """Tell MLflow again where our aliases stand."""
    for row in found:
        payload = {"name": row.name, "alias": row.alias}
        projection.tell(ws, "alias", row.name, payload)


def open_runs(ws: Workspace) -> dict[str, RunStatus]:
    """Return {MLflow run: how it ended here} of runs that MLflow still shows as running.

    Raises:
        MlflowException: the server does not answer.
    """
    found = projection.client(ws).search_runs(
        [projection.experiment_id(ws)], "attributes.status = 'RUNNING'", max_results=MOST
    )
    query = select(Run).where(Run.mlflow_run_id.in_([run.info.run_id for run in found]))
    with db.reading(ws.database_url) as session:
        ours = {str(run.mlflow_run_id): Status(run.status) for run in session.scalars(query)}
    return {run_id: ENDED[status] for run_id, status in ours.items() if status in ENDED}


def _aliases(ws: Workspace, name: str) -> dict[str, int]:
    """Return MLflow's aliases of a model."""
    from mlflow.exceptions import MlflowException

    try:
        model = projection.client(ws).get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}
    return {alias: int(version) for alias, version in model.aliases.items()}
