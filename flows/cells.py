"""Cells of a study: one fine-tuning each, side by side, as many at a time as their device takes.

A cell is an artifact of kind tuned. One that is there is not made again, one that was interrupted
goes on bit for bit where it stopped, and one that fails leaves the others alone.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner

from flows.devices import cores, device
from flows.stage import Interrupted, Stage, stage
from flows.training import train
from modules import tasks
from modules.files import Progress
from modules.run import FinetuneConfig, TuningStep
from modules.task import split_files
from registry import versions
from registry.artifacts import Artifact
from registry.tables import Kind

logger = logging.getLogger(__name__)

Tuned = dict[str, dict[str, Any]]
"""label -> {fingerprint, scores, facts} of a finished cell, {failed: why} of another"""

SIDE_BY_SIDE: Any = ThreadPoolTaskRunner(max_workers=2 * cores())
"""For flows that run cells: some train, some wait for the device, some are being stored."""


@dataclass(frozen=True)
class Cell:
    """One fine-tuning: a task, what to start from, and how."""

    task: str
    checkpoint: Artifact
    training: FinetuneConfig
    label: str
    """What it is called among its flow's."""
    prefix: str = ""
    """Its artifact is PREFIX-LABEL; empty: the checkpoint's name. Cells of one fingerprint should
    have one name: then a study goes on with what another began."""

    @property
    def name(self) -> str:
        """What its artifact is called."""
        return f"{self.prefix or self.checkpoint.name}-{self.label}".lower()


def run_cells(at: Stage, cells: Sequence[Cell], *, data: Path | None = None) -> Tuned:
    """Make every cell that is not there yet; return what each came to, by label.

    Args:
        data: the folder below which the tasks' rows lie; None: the project's.

    Raises:
        Interrupted: one was stopped; those that are done are kept, the same command continues.
        ValueError: two cells have one label.
    """
    if len({cell.label for cell in cells}) < len(cells):
        raise ValueError(f"two cells of a study have one label: {sorted(c.label for c in cells)}")
    futures = {cell.label: submit(at, cell, data or at.workspace.data) for cell in cells}
    ends = {label: future.result(raise_on_failure=False) for label, future in futures.items()}
    for end in ends.values():
        if isinstance(end, Interrupted):
            raise end
    return {label: outcome(at, label, end) for label, end in ends.items()}


def submit(at: Stage, cell: Cell, data: Path) -> "PrefectFuture[Artifact]":
    """Begin a cell beside the others."""
    task = tasks.get(cell.task)
    files = split_files(task, data)
    values = cell.training.model_dump(mode="json") | {"task": task.name}

    def step(out: Path, progress: Progress) -> dict[str, Any]:
        def waiting(limits: str) -> None:
            if at.stopping:
                raise Interrupted("the flow around this training is stopping")
            progress(0, 0, f"waits for {limits}")

        with (
            device(at.workspace, cell.training, waiting=waiting) as environment,
            stage(f"finetune-{cell.label}", values) as child,
        ):
            inputs = {"checkpoint": cell.checkpoint.path, "data": data}
            counts = train(
                child,
                "finetune",
                cell.training,
                inputs,
                out,
                progress,
                task=task.name,
                environment=environment,
            )
            child.log({f"{s['split']}/{s['metric']}": s["value"] for s in read_scores(out)})
            return counts

    return at.submit(
        Kind.TUNED,
        cell.name,
        step,
        config=TuningStep(task=task.name, training=cell.training),
        inputs={
            "checkpoint": cell.checkpoint,
            "task": versions.data_fingerprint(at.workspace, files),
        },
        version=task.version,
        title=f"finetune {cell.label}",
    )


def outcome(at: Stage, label: str, end: Artifact | BaseException) -> dict[str, Any]:
    """Return what a cell came to; a finished one's scores go into the catalogue."""
    if not isinstance(end, Artifact):
        logger.error("%s failed: %s", label, end)
        return {"failed": f"{type(end).__name__}: {end}"}
    scores = read_scores(end.path)
    at.add_scores(end, scores)
    facts = json.loads((end.path / "task.json").read_text())
    return {"fingerprint": end.fingerprint, "scores": scores, "facts": facts}


def read_scores(tuned: Path) -> list[dict[str, Any]]:
    """Return the scores of a tuned/ directory."""
    found: list[dict[str, Any]] = json.loads((tuned / "scores.json").read_text())
    return found


def raise_if_failed(made: Mapping[str, Mapping[str, Any]]) -> None:
    """End a flow whose other cells are done.

    Raises:
        ValueError: some failed; the message says which and why.
    """
    if failed := [f"{label}: {cell['failed']}" for label, cell in made.items() if "failed" in cell]:
        raise ValueError(f"{len(failed)} of {len(made)} fine-tunings failed; {'; '.join(failed)}")
