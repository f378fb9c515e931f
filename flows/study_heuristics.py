"""study heuristics: what a model can do before fine-tuning, while pre-training goes on.

GPT-1 paper, section 5, Figure 2 right: zero-shot heuristics against updates, Transformer and LSTM,
each task scaled so that 0 is guessing and 1 the best single-model result of the time.
"""

import json
from pathlib import Path
from typing import Any

from prefect import flow
from pydantic import Field

from flows.charts import curves
from flows.page import Block, Picture, Shown
from flows.stage import Stage, stage
from flows.study import Summary, base, finish, percent
from modules import presets, tasks
from modules.config import Config
from modules.files import Progress, write_json
from modules.run import RunConfig
from modules.task import find_split
from registry import versions
from registry.artifacts import Artifact
from registry.tables import Kind

Points = list[dict[str, Any]]
EDGES = ("value", "low", "high")


class AskedStep(Config):
    """What a task's curve follows from, beside checkpoint and rows."""

    task: str
    """Which task."""
    limit: int | None = Field(300, ge=1)
    """Rows asked at most."""


@flow(name="study-heuristics", flow_run_name="study-heuristics-{config.name}")
def study_heuristics(
    config: RunConfig = presets.STUDY,
    lstm: RunConfig | None = presets.STUDY_LSTM,
    limit: int = 300,
) -> Summary:
    """Pretrain with snapshots on the way, and ask each of them without fine-tuning.

    Args:
        config: The Transformer's run; its snapshots, or seven of ours, are asked.
        lstm: The LSTM's run; none: only the Transformer is asked.
        limit: Rows asked a task.

    Returns:
        What the command line prints, and the report's folder.
    """
    with stage("study-heuristics", config.model_dump(mode="json")) as at:
        data = config.finetune.folder(at.workspace.root)
        models = {"Transformer": base(at, with_snapshots(config))}
        if lstm:
            models["LSTM"] = base(at, with_snapshots(lstm))
        asked = {
            (name, task): curve(at, model, task, data, limit)
            for name, model in models.items()
            for task in there(data, at.workspace.data)
        }
        found = {
            key: json.loads((x.path / "heuristic.json").read_text()) for key, x in asked.items()
        }
        inputs = {f"{name}-{task}".lower(): x for (name, task), x in asked.items()}
        return finish(
            at, "heuristics", models["Transformer"], blocks(found), tuned={}, inputs=inputs
        )


def with_snapshots(run: RunConfig) -> RunConfig:
    """Return a run that keeps weights on the way, at steps that double.

    Raises:
        ValueError: the run's length is not known in steps.
    """
    if run.pretrain.snapshots:
        return run
    if run.pretrain.max_steps is None:
        raise ValueError(f"preset {run.name} counts in epochs: --set pretrain.snapshots=[1000,...]")
    steps = {run.pretrain.max_steps >> k for k in range(8)} - {0}
    pretrain = run.pretrain.but(snapshots=tuple(sorted(steps)))
    return run.but(name=f"{run.name}-snapshots", pretrain=pretrain)


def there(*folders: Path) -> list[str]:
    """Return the tasks with a heuristic whose rows are in one of the folders."""
    from modules.evaluation.heuristics import HEURISTICS

    return [h.task for h in HEURISTICS if h.task in tasks.TASKS and place(h.task, *folders)]


def place(name: str, *folders: Path) -> Path | None:
    """Return the first of the folders that has a task's rows."""
    for folder in folders:
        try:
            rows_of(name, folder)
        except FileNotFoundError:
            continue
        return folder
    return None


def rows_of(name: str, folder: Path) -> list[Path]:
    """Return the files that a heuristic reads."""
    task, heuristic = tasks.get(name), heuristic_of(name)
    splits = ["train", heuristic.split] if heuristic.way == "threshold" else [heuristic.split]
    return [find_split(task, folder, split) for split in splits]


def heuristic_of(name: str) -> Any:
    """Return the heuristic of a task."""
    from modules.evaluation.heuristics import HEURISTICS

    return next(h for h in HEURISTICS if h.task == name)


def curve(at: Stage, model: Artifact, name: str, data: Path, limit: int) -> Artifact:
    """Ask every snapshot of a model one task."""
    folder = place(name, data, at.workspace.data)
    assert folder is not None

    def step(out: Path, progress: Progress) -> dict[str, Any]:
        from dataclasses import asdict

        from modules.evaluation.heuristics import ask

        points: Points = []
        snapshots = sorted((model.path / "snapshots").iterdir())
        for number, snapshot in enumerate(snapshots, 1):
            asked = ask(snapshot, tasks.get(name), folder, heuristic_of(name), limit=limit)
            scaled = {
                f"scaled_{x}": asked.scaled(getattr(asked, x)) for x in ("value", "low", "high")
            }
            points.append({"updates": int(snapshot.name), **asdict(asked), **scaled})
            progress(number, len(snapshots), f"{name} {asked.value:.3f}")
        write_json(out / "heuristic.json", points)
        at.log_series([(p["updates"], {f"heuristic/{name}": p["value"]}) for p in points])
        return {"points": len(points)}

    return at.make(
        Kind.SCORES,
        f"{model.name}-heuristic-{name}".lower(),
        step,
        config=AskedStep(task=name, limit=limit),
        inputs={
            "checkpoint": model,
            "task": versions.data_fingerprint(at.workspace, rows_of(name, folder)),
        },
        version=tasks.get(name).version,
        title=f"heuristic {model.name} {name}",
    )


def blocks(found: dict[tuple[str, str], Points]) -> list[Block]:
    """Return the report: scores by updates, and the figure."""
    updates = sorted({point["updates"] for points in found.values() for point in points})
    rows = [
        [
            *(model, task, str(points[-1]["n"]), percent(points[-1]["guess"])),
            *(percent(point["value"]) for point in points),
            f"{points[-1]['scaled_value']:.2f}",
        ]
        for (model, task), points in found.items()
    ]
    table = Shown(
        "Zero-shot heuristics by updates, score in percent",
        ["model", "task", "items", "guessing", *map(str, updates), "on the figure's scale"],
        rows,
        "Scale: 0 is guessing; 1 is the best single-model result of the paper's time for the "
        "paper's sets (CoLA, SST-2, RACE), and everything right for the others.",
    )
    lines = {
        f"{task}, {model}": [(p["updates"], *(p[f"scaled_{x}"] for x in EDGES)) for p in points]
        for (model, task), points in found.items()
    }
    picture = curves(lines, "updates (log scale)", "score: 0 guessing, 1 best", log=True)
    return [table, Picture("Zero-shot heuristics against pre-training updates", picture)]
