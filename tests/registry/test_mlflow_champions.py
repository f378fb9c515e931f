"""Champions in MLflow: they load anywhere, their aliases get there, and drift is put back."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from registry import models, projection, tracking
from registry.drift import Drift, drift, mend
from registry.workspace import Workspace
from tests.registry.conftest import NAME, away, waiting

FORK = multiprocessing.get_context("fork")


def aliases(mlflow, name: str) -> dict[str, int]:
    found = mlflow.get_registered_model(name).aliases
    return {alias: int(version) for alias, version in found.items()}


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
