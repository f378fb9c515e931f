"""finetune: a checkpoint -> one tuned checkpoint per task (GPT-1 paper, sections 3.2 and 3.3)."""

import json
import os
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner

from flows.charts import markdown_table
from flows.stage import Stage, show, stage
from flows.training import train
from flows.tuned import follow
from modules import presets
from modules.files import Progress
from modules.run import FinetuneConfig, FinetuneRun, TuningStep, Use
from modules.task import Task, split_files
from registry import artifacts, versions
from registry.artifacts import Artifact
from registry.tables import Kind

Tuned = dict[str, dict[str, Any]]


@flow(
    name="finetune",
    flow_run_name="finetune-{name}",
    task_runner=ThreadPoolTaskRunner(max_workers=os.cpu_count() or 1),  # type: ignore[arg-type]  # generic in its result
)
def finetune(
    config: FinetuneRun = presets.SAMPLE.finetune,
    name: str = "sample",
    checkpoint: str = "checkpoint/sample",
) -> Tuned:
    """Fine-tune a checkpoint on every task, side by side, each in a process of its own.

    Args:
        config: The tasks, seeds and training settings, and whether to train from scratch too.
        name: What the results are called: NAME-TASK.
        checkpoint: What to start from: kind/name for the newest, or a fingerprint.

    Returns:
        Task -> {fingerprint, scores, ...}; runs from scratch are under TASK-scratch, seeds
        after the first under TASK-s1, TASK-s2, ...
    """
    chosen = config.chosen()
    with stage("finetune", config.model_dump(mode="json")) as at:
        start = artifacts.checkout(at.workspace, checkpoint)
        uses: list[Use] = [config.training.use]
        uses += ["scratch"] if config.compare_scratch else []
        futures = {
            label(task.name, use, seed): submit(
                at, task, start, name, config.settings_of(task.name, use, seed)
            )
            for seed in config.seeds
            for task in chosen
            for use in uses
        }
        made = {key: result_of(at, future.result()) for key, future in futures.items()}
        show_scores(made)
        follow(at, config, name, made)
        return made


def label(task: str, use: str, seed: int) -> str:
    """Return the short name of one run among those of a flow."""
    return task + ("" if use == "auxiliary" else f"-{use}") + (f"-s{seed}" if seed else "")


def submit(
    at: Stage, task: Task, start: Artifact, name: str, config: FinetuneConfig
) -> "PrefectFuture[Artifact]":
    """Start one fine-tuning beside the others."""
    data = at.workspace.data
    files = split_files(task, data)
    short = label(task.name, config.use, config.seed)

    def step(out: Path, progress: Progress) -> dict[str, Any]:
        with stage(
            f"finetune-{short}", config.model_dump(mode="json") | {"task": task.name}
        ) as child:
            inputs = {"checkpoint": start.path, "data": data}
            counts = train(child, "finetune", config, inputs, out, progress, task=task.name)
            scores = json.loads((out / "scores.json").read_text())
            child.log({f"{score['split']}/{score['metric']}": score["value"] for score in scores})
            return counts

    return at.submit(
        Kind.TUNED,
        f"{name}-{short}",
        step,
        config=TuningStep(task=task.name, training=config),
        inputs={"checkpoint": start, "task": versions.data_fingerprint(at.workspace, files)},
        version=task.version,
        title=f"finetune {short}",
    )


def result_of(at: Stage, made: Artifact) -> dict[str, Any]:
    """Put a tuned checkpoint's scores into the catalogue; return them with the task's facts."""
    scores = json.loads((made.path / "scores.json").read_text())
    at.add_scores(made, scores)
    facts = json.loads((made.path / "task.json").read_text())
    return {"fingerprint": made.fingerprint, "scores": scores, "facts": facts}


def show_scores(made: Tuned) -> None:
    """Show all scores as one table."""
    rows = [
        (
            key,
            score["metric"],
            score["value"],
            f"{score['low']:.3f} to {score['high']:.3f}",
            score["n"],
        )
        for key, tuned in made.items()
        for score in tuned["scores"]
    ]
    table = markdown_table(["task", "metric", "value", "95 % interval", "items"], rows)
    show("finetuning", f"# Fine-tuned\n\n{table}", "Scores of the fine-tuned checkpoints")
