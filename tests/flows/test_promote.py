"""promote: what a version is judged on, and what becomes of it; and the commands around it."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from flows import cli_models, promote
from flows.guard import measured
from flows.stage import Stage
from modules.evaluation.promotion import GuardConfig
from modules.files import write_json, write_jsonl
from registry import artifacts, models, projection
from registry.artifacts import Artifact
from registry.workspace import Workspace

NAME = "textmill-x"
PROTOCOL = {"variant": "", "stride": 128}


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A stage of a new project whose MLflow is away."""
    monkeypatch.delenv("TEXTMILL_DATABASE_URL", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("TEXTMILL_ROOT", str(tmp_path))
    workspace = Workspace.open(tmp_path)
    monkeypatch.setitem(projection._silent_until, workspace.tracking_uri, float("inf"))
    return Stage(workspace, "promote", {})


def publish(at: Stage, kind: str, name: str, config: dict, inputs: dict, fill) -> Artifact:
    parts = {role: getattr(x, "fingerprint", x) for role, x in inputs.items()}
    fp = artifacts.fingerprint(kind, config, parts, 1)
    with artifacts.workdir(at.workspace, kind, name, fp) as work:
        fill(work)
        about = {"kind": kind, "name": name, "fingerprint": fp, "config": config}
        return artifacts.publish(at.workspace, work, **about, inputs=inputs, counts={})


def checkpoint(at: Stage, n: int) -> Artifact:
    data = {"data": "d" * 64}
    return publish(at, "checkpoint", "x", {"n": n}, data, lambda out: write_json(out / "a", n))


def scored(at: Stage, model: Artifact, bits: list[float], *, keep: bool = True) -> float:
    """Score a checkpoint on the speeches: so many bits per byte of each one's 1,000 bytes."""
    nll = [x * 1000 * float(np.log(2)) for x in bits]
    score = {"task": "lm_ppl_speeches", "metric": "bits_per_byte", "value": float(np.mean(bits))}
    score |= {"n": len(bits), "low": min(bits), "high": max(bits), "split": "test"}
    score |= {"task_version": 1, "protocol": PROTOCOL}

    def fill(out: Path) -> None:
        (out / "items").mkdir()
        rows = [{"variant": "", "id": str(i), "nll": x, "bytes": 1000} for i, x in enumerate(nll)]
        write_jsonl(out / "items" / "lm_ppl_speeches.jsonl.zst", rows)
        write_json(out / "scores.json", [score])

    if keep:
        config = {"task": "lm_ppl_speeches"}
        publish(at, "scores", "x-speeches", config, {"checkpoint": model}, fill)
    at.add_scores(model, [score])
    return float(np.mean(bits))


def test_items_are_found_where_they_were_kept(at: Stage) -> None:
    one, two = checkpoint(at, 1), checkpoint(at, 2)
    scored(at, one, [2.0, 2.2, 2.4])
    scored(at, two, [2.0, 2.2, 2.4], keep=False)
    (found,) = measured(at, one, "bits_per_byte").values()
    assert found.items is not None and found.metric is not None
    assert found.metric(list(found.items.predictions[0]), list(found.items.references)) == (
        pytest.approx(found.value)
    )
    (found,) = measured(at, two, "bits_per_byte").values()
    assert found.items is None and (found.low, found.high) == (2.0, 2.4)
    assert measured(at, one, "word_perplexity") == {}


def test_the_guard_decides(at: Stage) -> None:
    rng = np.random.default_rng(0)
    hard = rng.uniform(1.5, 2.5, 40)
    versions = [checkpoint(at, n) for n in range(4)]
    for artifact, shift in zip(versions, (0.0, 0.2, -0.1, -0.1), strict=True):
        scored(at, artifact, (hard + shift + rng.normal(0, 0.01, 40)).tolist())
    first = promote.decide(at, NAME, versions[0])
    assert first["champion"] == 1 and "the first version" in first["decision"]
    worse = promote.decide(at, NAME, versions[1])
    assert worse["champion"] == 1 and "version 1 stays" in worse["decision"]
    assert models.holder(at.workspace, NAME, "challenger") == 2
    better = promote.decide(at, NAME, versions[2], guard=GuardConfig(policy="significant"))
    assert better["champion"] == 3 and "bits per byte over 1 sets" in better["decision"]
    lost = promote.decide(at, NAME, versions[3], guard=GuardConfig(sets=("winograd_like",)))
    assert "not scored for both with the same protocol: winograd_like" in lost["decision"]
    forced = promote.decide(at, NAME, versions[1], force=True)
    assert forced["champion"] == 2 and "by force; " in forced["decision"]
    again = promote.decide(at, NAME, versions[1])
    assert "is the champion already" in again["decision"]
    moves = [(m.previous, m.version) for m in models.history(at.workspace, NAME)]
    assert moves == [(None, 1), (1, 3), (3, 2)]


def test_tuned_checkpoints_are_judged_by_their_validation(at: Stage) -> None:
    def tuned(n: int, right: int) -> Artifact:
        score = {"task": "social_iqa", "metric": "accuracy", "value": right / 50, "n": 50}
        score |= {"low": 0.0, "high": 1.0, "task_version": 1}

        def fill(out: Path) -> None:
            rows = [{"id": str(i), "label": 1, "prediction": int(i < right)} for i in range(50)]
            write_jsonl(out / "predictions-val.jsonl.zst", rows)
            write_json(out / "validation.json", [score])

        return publish(at, "tuned", "x", {"n": n}, {"task": "t" * 64}, fill)

    assert promote.decide(at, "textmill-t", tuned(1, 20))["champion"] == 1
    assert promote.decide(at, "textmill-t", tuned(2, 19))["champion"] == 1
    made = promote.decide(at, "textmill-t", tuned(3, 40))
    assert made["champion"] == 3
    assert "0.8000 > 0.4000 on the validation split" in made["decision"]
    # 20 of 50 answers differ: 0.4 +- 1.96 sqrt(0.4 * 0.6 / 50)
    low, high = (float(x) for x in made["decision"].split("difference ")[1][:-1].split(" to "))
    assert (low, high) == pytest.approx((0.264, 0.536), abs=0.03)


def test_commands_show_history_and_roll_back(at: Stage) -> None:
    for n in range(2):
        promote.decide(at, NAME, checkpoint(at, n), force=True)
    run = CliRunner().invoke
    rows = json.loads(run(cli_models.app, ["models", NAME, "--history", "--json"]).stdout)
    assert [(row["from"], row["to"]) for row in rows] == [(None, 1), (1, 2)]
    assert set(rows[0]) == {"when", "who", "alias", "from", "to", "why", "scores"}
    assert "version 1 is the champion again" in run(cli_models.app, ["rollback", NAME]).stdout
    assert models.history(at.workspace, NAME)[-1].reason == "rollback: by hand"
    card = run(cli_models.app, ["models", NAME, "--card", "2"]).stdout
    assert card.startswith(f"# {NAME} version 2")
    listed = json.loads(run(cli_models.app, ["models", "--json"]).stdout)
    assert [(row["version"], row["aliases"]) for row in listed] == [(2, []), (1, ["champion"])]
    for mistake, message in (
        (["rollback", NAME], "no earlier version"),
        (["models", "textmill-none"], "no model textmill-none"),
        (["models", "--history"], "textmill models NAME --history"),
        (["promote", NAME, "--policy", "x"], "no set worse"),
        (["promote", NAME, "--set", "nonsense"], "no task 'nonsense'"),
    ):
        error = run(cli_models.app, mistake).exception
        assert isinstance(error, ValueError) and message in str(error)
