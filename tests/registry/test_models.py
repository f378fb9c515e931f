"""Model versions, champions and MLflow (one database for the whole file: it costs seconds)."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from registry import (
    artifacts,
    catalogue,
    db,
    models,
    outbox,
    projection,
    provenance,
    runs,
    tracking,
)
from registry.drift import Drift, drift, mend, open_runs
from registry.tables import Outbox, Status
from registry.workspace import Workspace

FORK = multiprocessing.get_context("fork")
NAME = "textmill-sample"


def checkpoints(ws: Workspace, make, n: int) -> list[int]:
    made = [make(ws, kind="checkpoint", config={"n": i}) for i in range(n)]
    return [models.register(ws, NAME, artifact, "local-run") for artifact in made]


def waiting(ws: Workspace) -> list[Outbox]:
    with db.reading(ws.database_url) as session:
        return outbox.pending(session, "mlflow")


def test_register_is_idempotent_and_counts_up(ws: Workspace, make) -> None:
    assert checkpoints(ws, make, 3) == [1, 2, 3]
    assert checkpoints(ws, make, 3) == [1, 2, 3]
    assert [row.action for row in waiting(ws)] == ["register"] * 3
    with pytest.raises(ValueError, match="is no checkpoint"):
        models.register(ws, NAME, make(ws, kind="tokens"), "r")


def test_promote_compares_and_keeps_history(ws: Workspace, make) -> None:
    checkpoints(ws, make, 3)
    assert models.holder(ws, NAME) is None
    with pytest.raises(models.Conflict, match="champion is version None, not 1"):
        models.promote(ws, NAME, 2, expected=1, reason="x")
    models.promote(ws, NAME, 1, expected=None, reason="first")
    models.promote(ws, NAME, 3, expected=1, reason="better")
    with pytest.raises(models.Conflict, match="is version 3, not 1"):
        models.promote(ws, NAME, 2, expected=1, reason="late")
    with pytest.raises(ValueError, match=r"no version 9; it has \[3, 2, 1\]"):
        models.promote(ws, NAME, 9, expected=3, reason="x")
    assert models.resolve(ws, f"{NAME}@champion").config == {"n": 2}
    assert artifacts.checkout(ws, f"models:/{NAME}/1").config == {"n": 0}
    models.promote(ws, NAME, 2, expected=3, reason="smaller")
    assert models.rollback(ws, NAME, reason="too small") == 3
    assert models.rollback(ws, NAME, reason="worse on the wiki") == 1
    with pytest.raises(ValueError, match="no earlier version"):
        models.rollback(ws, NAME, reason="again")
    moves = [(m.previous, m.version, m.reason) for m in models.history(ws, NAME)]
    assert moves == [
        (None, 1, "first"),
        (1, 3, "better"),
        (3, 2, "smaller"),
        (2, 3, "rollback: too small"),
        (3, 1, "rollback: worse on the wiki"),
    ]
    assert [(m["version"], m["aliases"]) for m in models.list_models(ws)] == [
        (3, []),
        (2, []),
        (1, ["champion"]),
    ]


def test_history_says_who_and_what_was_known(ws: Workspace, make) -> None:
    checkpoints(ws, make, 3)
    artifact = artifacts.look_up(ws, f"{NAME}/2")

    def score(value: float) -> None:
        row = {"task": "t", "metric": "accuracy", "split": "test", "task_version": 1, "n": 9}
        row |= {"value": value, "low": value - 0.1, "high": value + 0.1, "protocol": {"a": 1}}
        db.write(ws.database_url, lambda s: catalogue.add_scores(s, artifact.fingerprint, [row]))

    models.promote(ws, NAME, 1, expected=None, reason="first")
    score(0.5)
    models.promote(ws, NAME, 2, expected=1, reason="better")
    score(0.7)  # later: the history keeps what was known then
    models.promote(ws, NAME, 2, expected=2, reason="again")  # nothing moves, nothing is noted
    first, second = models.history(ws, NAME)
    assert first.scores == {}
    (known,) = second.scores.values()
    assert known == {"value": 0.5, "low": 0.4, "high": 0.6}
    assert list(second.scores) == ['t accuracy test v1 {"a":1}']
    assert second.who == provenance.this_user() and "@" in second.who
    assert second.created >= first.created


def test_rollback_to_a_version(ws: Workspace, make) -> None:
    checkpoints(ws, make, 4)
    for before, version in ((None, 1), (1, 2), (2, 3)):
        models.promote(ws, NAME, version, expected=before, reason="x")
    assert models.rollback(ws, NAME, reason="x", to=1) == 1
    with pytest.raises(ValueError, match="version 1 already"):
        models.rollback(ws, NAME, reason="x", to=1)
    with pytest.raises(ValueError, match="no earlier version"):
        models.rollback(ws, NAME, reason="x")
    assert models.rollback(ws, NAME, reason="x", to=4) == 4  # it never was champion: a move as any
    assert models.rollback(ws, NAME, reason="x") == 1
    with pytest.raises(ValueError, match="no version 9"):
        models.rollback(ws, NAME, reason="x", to=9)
    with pytest.raises(ValueError, match="no earlier version"):
        models.rollback(ws, "textmill-other", reason="x")


def test_the_short_list_has_newest_and_aliased_versions(ws: Workspace, make) -> None:
    checkpoints(ws, make, 5)
    models.promote(ws, NAME, 2, expected=None, reason="x")
    assert [row["version"] for row in models.list_models(ws, current=True)] == [5, 2]
    assert [row["version"] for row in models.list_models(ws)] == [5, 4, 3, 2, 1]


def test_of_twenty_promoters_one_wins(ws: Workspace, make) -> None:
    versions = checkpoints(ws, make, 5) * 4
    results = FORK.SimpleQueue()

    def compete(version: int) -> None:
        try:
            models.promote(ws, NAME, version, expected=None, reason=f"by {version}")
            results.put(version)
        except models.Conflict:
            results.put(None)

    workers = [FORK.Process(target=compete, args=(version,)) for version in versions]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    winners = [version for version in (results.get() for _ in workers) if version]
    assert len(winners) == 1
    assert models.holder(ws, NAME) == winners[0]
    assert [move.version for move in models.history(ws, NAME)] == winners
    assert [row.action for row in waiting(ws)].count("alias") == 1


# From here on with MLflow.


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A project with an MLflow database."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TEXTMILL_DATABASE_URL", raising=False)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        made = Workspace.open(tmp_path_factory.mktemp("store"))
    projection.experiment_id(made)
    return made


@pytest.fixture
def mlflow(store: Workspace):
    return projection.client(store)


def aliases(mlflow, name: str) -> dict[str, int]:
    found = mlflow.get_registered_model(name).aliases
    return {alias: int(version) for alias, version in found.items()}


def away(ws: Workspace) -> None:
    projection._silent_until[ws.tracking_uri] = float("inf")


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


@pytest.fixture(scope="module")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint, made by the model's own code."""
    import torch

    from modules import tokenizer
    from modules.model import checkpoint
    from modules.model.gpt import GPTConfig

    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    (folder / "tokenizer").mkdir()
    made = tokenizer.Tokenizer([("h", "e"), ("l", "l")])
    made.save(folder / "tokenizer")
    config = GPTConfig(vocab_size=made.n_vocab, n_positions=48, n_embd=16, n_layer=1, n_head=2)
    checkpoint.save(checkpoint.build(config), folder)
    return folder


def test_the_champion_loads_in_any_process(
    store: Workspace, mlflow, make, checkpoint_folder: Path, plugged: str
) -> None:
    files = {
        path.relative_to(checkpoint_folder).as_posix(): path.read_bytes()
        for path in checkpoint_folder.rglob("*")
        if path.is_file()
    }
    run = tracking.start(store, "pretrain")
    artifact = make(store, kind="checkpoint", files=files)
    scores = {"lambada/accuracy": 0.25}
    assert models.register(store, NAME, artifact, run, scores=scores) == 1
    models.promote(store, NAME, 1, expected=None, reason="first")
    assert waiting(store) == []

    version = mlflow.get_model_version_by_alias(NAME, "champion")
    assert version.tags["textmill.fingerprint"] == artifact.fingerprint
    assert version.tags["score.lambada/accuracy"] == "0.25"
    assert version.run_id == run
    code = (
        "import sys, mlflow, pandas as pd\n"
        f"m = mlflow.pyfunc.load_model('models:/{NAME}@champion')\n"
        "one = m.predict(['hello'], params={'mode': 'score'})\n"
        "two = m.predict(pd.DataFrame({'text': ['hello', 'he' * 99]}), params={'mode': 'score'})\n"
        "assert one[0] == two[0], (one, two)\n"
        "assert [row['tokens'] for row in two] == [3, 99], two\n"
        "assert 150 < two[1]['perplexity'] < 400, two  # untrained: about the vocabulary, 259\n"
        "greedy = {'max_new_tokens': 5, 'temperature': 0.0}\n"
        "texts = m.predict(['hello', 'hell'], params=greedy)\n"
        "assert texts == m.predict(['hello', 'hell'], params=greedy)\n"
        "assert all(isinstance(text, str) for text in texts) and len(texts) == 2\n"
        "assert 'max_new_tokens' in str(m.metadata.signature.params)\n"
    )
    env = os.environ | {"MLFLOW_TRACKING_URI": store.tracking_uri, "PYTHONPATH": plugged}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)


def test_an_alias_moved_while_mlflow_was_away_gets_there(
    store: Workspace, mlflow, make, checkpoint_folder: Path
) -> None:
    files = {
        path.relative_to(checkpoint_folder).as_posix(): path.read_bytes()
        for path in checkpoint_folder.rglob("*")
        if path.is_file()
    }
    away(store)
    run = tracking.start(store, "later")
    made = make(store, kind="checkpoint", config={"later": 1}, files=files)
    version = models.register(store, "textmill-later", made, run)
    models.promote(store, "textmill-later", version, expected=None, reason="only one")
    assert [row.action for row in waiting(store)] == ["start", "register", "alias"]
    tracking.try_again(store)
    assert tracking.replay_outbox(store) == (3, 0)
    found = mlflow.get_model_version_by_alias("textmill-later", "champion")
    assert found.tags["textmill.fingerprint"] == made.fingerprint
    assert models.list_models(store, "textmill-later")[0]["mlflow_version"] == 1


def test_a_promoter_killed_before_it_told_mlflow_is_mended_by_a_replay(
    store: Workspace, mlflow, make
) -> None:
    name = "textmill-killed"
    made = make(store, kind="checkpoint", config={"killed": 1})
    models.register(store, name, made, tracking.start(store, "x"))

    def die(ws: Workspace, *, topic: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def promote() -> None:
        projection.replay_outbox = die  # the transaction is committed, MLflow is not told
        models.promote(store, name, 1, expected=None, reason="first")

    worker = FORK.Process(target=promote)
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    assert models.holder(store, name) == 1
    assert aliases(mlflow, name) == {}
    assert drift(store) == []  # it is on its way
    tracking.replay_outbox(store)
    assert aliases(mlflow, name) == {"champion": 1}


def test_aliases_moved_by_hand_are_found_and_put_back(store: Workspace, mlflow, make) -> None:
    name = "textmill-moved"
    for n in range(2):
        made = make(store, kind="checkpoint", config={"moved": n})
        models.register(store, name, made, tracking.start(store, "x"))
    models.promote(store, name, 1, expected=None, reason="first")
    models.promote(store, name, 2, expected=None, reason="next", alias="challenger")
    assert drift(store) == []
    mlflow.set_registered_model_alias(name, "champion", "2")
    mlflow.delete_registered_model_alias(name, "challenger")
    found = drift(store)
    assert found == [Drift(name, "challenger", 2, None), Drift(name, "champion", 1, 2)]
    assert str(found[1]) == f"{name}@champion is version 2 in MLflow, 1 by the catalogue"
    mend(store, found)
    assert drift(store) == []
    assert aliases(mlflow, name) == {"champion": 1, "challenger": 2}


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


def test_an_alias_that_moves_while_it_is_told_is_told_again(
    store: Workspace, mlflow, make, monkeypatch
) -> None:
    """Two machines replay the same outbox: what MLflow has at the end is what the catalogue has."""
    name = "textmill-moving"
    for n in range(2):
        made = make(store, kind="checkpoint", config={"moving": n})
        models.register(store, name, made, tracking.start(store, "x"))
    real = mlflow.set_registered_model_alias

    def slow(name: str, alias: str, version: str) -> None:
        if models.holder(store, name) == 1:
            away(store)  # the other machine moves on and does not tell
            models.promote(store, name, 2, expected=1, reason="meanwhile")
            tracking.try_again(store)
        real(name, alias, version)

    monkeypatch.setattr(type(mlflow), "set_registered_model_alias", lambda s, *a: slow(*a))
    models.promote(store, name, 1, expected=None, reason="first")
    assert aliases(mlflow, name) == {"champion": 2}
