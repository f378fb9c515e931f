"""Runs in MLflow: nested and stamped, told later where it was away, told once, and ended."""

import pytest

from registry import db, projection, runs, tracking
from registry.drift import open_runs
from registry.tables import Status
from registry.workspace import Workspace
from tests.registry.conftest import away, waiting


def test_runs_are_nested_and_stamped(store: Workspace, mlflow) -> None:
    parent = tracking.start(store, "sample", params={"model": {"n_embd": 64}, "name": "x"})
    child = tracking.start(store, "pretrain", parent=parent, flow_run_id="f-1")
    tracking.log_metrics(store, child, {"train/loss": 2.5}, step=7)
    tracking.log_points(store, child, [("train/lr", i / 9, i, 1000 + i) for i in range(1500)])
    tracking.log_table(store, child, [{"task": "a", "value": 1}], "tables/scores.json")
    tracking.finish(store, child)
    tracking.finish(store, parent, "FAILED")
    run = mlflow.get_run(child)
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.tags["prefect.flow_run_id"] == "f-1"
    assert run.data.tags["textmill.data_version"] == "unpinned"
    assert run.data.metrics == {"train/loss": 2.5, "train/lr": 1499 / 9}
    assert len(mlflow.get_metric_history(child, "train/lr")) == 1500
    assert [f.path for f in mlflow.list_artifacts(child, "tables")] == ["tables/scores.json"]
    assert run.info.status == "FINISHED"
    assert mlflow.get_run(parent).info.status == "FAILED"
    assert mlflow.get_run(parent).data.params == {"model.n_embd": "64", "name": "x"}
    assert run.info.artifact_uri.startswith((store.state / "mlflow-artifacts").as_uri())
    assert list((store.state / "spool").iterdir()) == []


def test_a_run_made_while_mlflow_was_away_gets_there_later(store: Workspace, mlflow) -> None:
    away(store)
    run = tracking.start(store, "offline", params={"a": 1})
    tracking.log_metrics(store, run, {"loss": float("inf")}, step=1)
    tracking.log_text(store, run, "hello", "note.txt")
    tracking.finish(store, run)
    assert run.startswith("local-")
    assert len(waiting(store)) == 4
    tracking.try_again(store)
    assert tracking.replay_outbox(store) == (4, 0)
    (found,) = mlflow.search_runs(
        [projection.experiment_id(store)], "tags.`mlflow.runName`='offline'"
    )
    assert found.info.status == "FINISHED"
    assert found.data.metrics["loss"] > 1e300  # MLflow's infinity
    assert [f.path for f in mlflow.list_artifacts(found.info.run_id)] == ["note.txt"]
    tracking.log_metrics(store, run, {"loss": 1.0}, step=2)  # our id still works
    assert mlflow.get_run(found.info.run_id).data.metrics["loss"] == 1.0


def test_a_replay_killed_between_telling_and_noting_doubles_nothing(
    store: Workspace, mlflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    away(store)
    run = tracking.start(store, "twice")
    tracking.log_metrics(store, run, {"loss": 3.0}, step=1)
    tracking.try_again(store)
    real = projection._mark
    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(projection, "_mark", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
            tracking.replay_outbox(store)
        row = waiting(store)[0]
        if row.action == "start":  # told and noted: the next one is the metric
            real(store, row.id, projection._try(store, row.action, row.payload)[0], "", True)
    tracking.replay_outbox(store)
    assert waiting(store) == []
    found = mlflow.search_runs([projection.experiment_id(store)], "tags.`mlflow.runName`='twice'")
    assert len(found) == 1
    assert len(mlflow.get_metric_history(found[0].info.run_id, "loss")) == 1


def test_an_unreachable_server_stops_nothing(ws: Workspace, monkeypatch, caplog) -> None:
    address = "http://127.0.0.1:9"  # the discard port: nobody listens
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    lonely = Workspace.open(ws.root)
    assert lonely.tracking_uri == address
    run = tracking.start(lonely, "x")
    for step in range(50):
        tracking.log_metrics(lonely, run, {"loss": 1.0}, step=step)
    assert len(waiting(lonely)) == 51
    assert caplog.text.count("mlflow does not answer") == 1


def test_a_mistake_of_ours_is_not_hidden(store: Workspace) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match="Invalid"):
        tracking.log_metrics(store, tracking.start(store, "bad"), {"a*b": 1.0})


def test_runs_that_mlflow_shows_as_running_though_they_ended(store: Workspace) -> None:
    def add(status: Status) -> str:
        run_id = tracking.start(store, "x")

        def work(session):
            row = runs.start_run(
                session, stage="s", name="a", config={}, git_commit="", data_version=""
            )
            row.mlflow_run_id, row.status = run_id, status

        db.write(store.database_url, work)
        return run_id

    add(Status.RUNNING)
    killed, done = add(Status.INTERRUPTED), add(Status.COMPLETED)
    assert open_runs(store) == {killed: "KILLED", done: "FINISHED"}
    for run_id, status in open_runs(store).items():
        tracking.finish(store, run_id, status)
    assert open_runs(store) == {}
