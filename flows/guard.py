"""What a promotion is judged on: scores from the catalogue, with the answers behind them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.stage import Stage
from modules import tasks
from modules.files import read_jsonl
from registry import artifacts, catalogue
from registry.artifacts import Artifact
from registry.db import reading
from registry.tables import Kind, Score

if TYPE_CHECKING:
    from modules.evaluation.promotion import Measured


def measured(at: Stage, artifact: Artifact, metric: str) -> "dict[str, Measured]":
    """Return what a checkpoint is judged by, per set and protocol."""
    if artifact.kind == Kind.TUNED:
        return of_validation(artifact)
    scores = [x for x in at.scores_of(artifact.fingerprint) if x.metric == metric]
    if not scores:
        return {}
    folders = score_folders(at, artifact)
    return {
        f"{x.task} {x.split} v{x.version} {x.protocol}": of_score(x, folders.get(x.task, []))
        for x in scores
    }


def score_folders(at: Stage, checkpoint: Artifact) -> dict[str, list[Path]]:
    """Return where the answers of a checkpoint's scores lie, by task, newest first."""
    with reading(at.workspace.database_url) as session:
        rows = catalogue.children(session, checkpoint.fingerprint, Kind.SCORES)
    found: dict[str, list[Path]] = {}
    for row in rows:
        kept = artifacts.find(at.workspace, Kind.SCORES, row.fingerprint)
        if kept is not None:
            found.setdefault(row.config.get("task", ""), []).append(kept.path)
    return found


def of_score(score: Score, folders: list[Path]) -> "Measured":
    """Return a zero-shot score, with its items from the folder that has this very score."""
    from modules.evaluation.promotion import Measured

    plain = Measured(score.task, score.value, score.low, score.high)
    protocol = json.loads(score.protocol)
    for folder in folders:
        items = folder / "items" / f"{score.task}.jsonl.zst"
        if items.exists() and (score.value, protocol) in _scores(folder, score.metric):
            return _with_items(plain, score.metric, items, protocol["variant"])
    return plain


def _scores(folder: Path, metric: str) -> list[tuple[float, dict[str, Any]]]:
    """Return (value, protocol) of a metric's scores in a folder."""
    rows = json.loads((folder / "scores.json").read_text())
    return [(row["value"], row["protocol"]) for row in rows if row["metric"] == metric]


def _with_items(score: "Measured", metric: str, items: Path, variant: str) -> "Measured":
    """Add the answers of one way to ask, as the metric reads them."""
    from dataclasses import replace

    from modules.evaluation.comparison import Outcomes
    from modules.evaluation.zero_shot import columns

    task = tasks.get(score.task)
    prediction, reference = columns(task, metric)
    rows = [row for row in read_jsonl(items) if row["variant"] == variant]
    outcomes = Outcomes(
        tuple(str(row["id"]) for row in rows),
        (tuple(row[prediction] for row in rows),),
        tuple(row[reference] for row in rows),
    )
    return replace(score, metric=task.metrics[metric], items=outcomes)


def of_validation(tuned: Artifact) -> "dict[str, Measured]":
    """Return a tuned checkpoint's first score on the validation split, of the same rows only."""
    from modules.evaluation.comparison import outcomes
    from modules.evaluation.promotion import Measured

    path = tuned.path / "validation.json"
    if not path.exists():
        return {}
    score = json.loads(path.read_text())[0]
    rows = tuned.inputs.get("task", "")[:12]
    name = f"{score['task']} {score['metric']} v{score['task_version']} rows {rows}"
    kept = tuned.path / "predictions-val.jsonl.zst"
    answers = list(read_jsonl(kept)) if kept.exists() else []
    task = tasks.get(score["task"]) if len(answers) == score["n"] else None
    return {
        name: Measured(
            score["task"],
            score["value"],
            score["low"],
            score["high"],
            task.metrics[score["metric"]] if task else None,
            outcomes([answers]) if task else None,
        )
    }
