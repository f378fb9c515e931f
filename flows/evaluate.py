"""zero_shot: a checkpoint -> scores without training (GPT-2 paper, section 3)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import flow

from flows.charts import digits, reliability
from flows.page import Shown
from flows.stage import Stage, show, stage
from modules import presets
from modules.files import Progress, read_jsonl, write_json
from modules.run import ScoringStep, ZeroShotConfig, ZeroShotRun
from modules.task import Task, find_split
from registry import artifacts, versions
from registry.artifacts import Artifact
from registry.tables import Kind


@flow(name="zero_shot", flow_run_name="zero-shot-{name}")
def zero_shot(
    config: ZeroShotRun = presets.SAMPLE.zero_shot,
    name: str = "sample",
    checkpoint: str = "checkpoint/sample",
) -> dict[str, dict[str, Any]]:
    """Score a checkpoint on every task by prompting it, one task after the other.

    Args:
        config: The tasks, and how they are scored.
        name: What the results are called: NAME-TASK.
        checkpoint: What to score: kind/name for the newest, a fingerprint, or the folder of a
            checkpoint of ours or of a causal language model of transformers.

    Returns:
        Task -> {fingerprint, scores}.
    """
    chosen = config.chosen()
    with stage("zero_shot", config.model_dump(mode="json")) as at:
        folder = Path(checkpoint)
        model = folder if folder.is_dir() else artifacts.checkout(at.workspace, checkpoint)
        made = {}
        for task in chosen:
            scores = score(at, task, model, name, config.settings_of(task.name))
            rows = json.loads((scores.path / "scores.json").read_text())
            if isinstance(model, Artifact):
                at.add_scores(model, rows)
            made[task.name] = {"fingerprint": scores.fingerprint, "scores": rows}
        show_scores(made)
        return made


def score(
    at: Stage,
    task: Task,
    model: Artifact | Path,
    name: str,
    config: ZeroShotConfig,
    *,
    data: Path | None = None,
) -> Artifact:
    """Score one task.

    Args:
        data: the folder the rows lie in; None: the project's.
    """
    from modules.evaluation.ask import identity

    path = model if isinstance(model, Path) else model.path
    source = identity(model) if isinstance(model, Path) else model
    data = data or at.workspace.data
    splits = {config.split_of(task), *([task.examples] if task.examples else [])}
    files = sorted({find_split(task, data, split) for split in splits})

    def step(out: Path, progress: Progress) -> dict[str, Any]:
        from dataclasses import asdict

        from modules.evaluation.zero_shot import evaluate, files_of

        scores = [asdict(x) for x in evaluate(path, task, data, out, config, progress)]
        write_json(out / "scores.json", scores)
        at.log({f"zero_shot/{x['task']}/{x['metric']}": x["value"] for x in scores})
        at.log_table(list(read_jsonl(files_of(out, task)[0])), f"items/{name}-{task.name}.json")
        answers = out / "items" / f"{task.name}.reliability.json"
        if answers.exists():
            bins = json.loads(answers.read_text())["bins"]
            at.attach(reliability(bins), f"reliability-{task.name}.png")
        return {"scores": len(scores), "items": max(x["n"] for x in scores)}

    return at.make(
        Kind.SCORES,
        f"{name}-{task.name}".lower(),
        step,
        config=ScoringStep(task=task.name, settings=config),
        inputs={"checkpoint": source, "task": versions.data_fingerprint(at.workspace, files)},
        version=task.version,
        title=f"zero-shot {task.name}",
    )


def show_scores(made: dict[str, dict[str, Any]]) -> None:
    """Show all scores as one table, each with its protocol."""
    table = all_scores([score for result in made.values() for score in result["scores"]])
    show("zero-shot", f"# Zero-shot\n\n{table.as_markdown()}", "Scores with their protocols")


def all_scores(scores: Sequence[Mapping[str, Any]]) -> Shown:
    """Return a table of scores, each with its interval, items and protocol."""
    rows = [
        [
            score["task"],
            score["metric"],
            digits(score["value"]),
            f"{digits(score['low'])} to {digits(score['high'])}",
            str(score["n"]),
            score["split"],
            ", ".join(f"{k} {v}" for k, v in score["protocol"].items() if v not in ("", None)),
        ]
        for score in scores
    ]
    header = ["task", "metric", "value", "95 % interval", "items", "split", "protocol"]
    return Shown("Every score", header, rows)
