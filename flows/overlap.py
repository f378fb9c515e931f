"""overlap: how much of each evaluation set is in a corpus (GPT-2 paper, section 4, Table 6)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow

from flows.charts import markdown_table
from flows.spread import spread, task_runner
from flows.stage import Stage, show, stage
from modules import presets, tasks
from modules.config import Config
from modules.corpus.overlap import OverlapConfig, asked_split
from modules.files import Progress
from modules.task import Task, find_split
from registry import artifacts, versions
from registry.artifacts import Artifact
from registry.tables import Kind


class OverlapStep(Config):
    """What the table follows from, beside its inputs."""

    overlap: OverlapConfig
    """What counts as the same."""
    versions: dict[str, int]
    """The tasks, each with its version."""


@flow(name="overlap", flow_run_name="overlap-{name}", task_runner=task_runner())
def overlap(
    config: OverlapConfig = OverlapConfig(),  # noqa: B008 - frozen; the form in the UI
    name: str = "sample",
    documents: str = "documents/sample",
    task_names: tuple[str, ...] = presets.ZERO_SHOT_TASKS,
    workers: int = 0,
) -> dict[str, Any]:
    """Measure the overlap of evaluation sets with a corpus' training documents.

    Args:
        config: What counts as the same, and how the corpus is split.
        name: What the table is called: NAME-overlap.
        documents: The corpus: kind/name for the newest, or a fingerprint.
        task_names: The evaluation sets, by their tasks.
        workers: Processes that read the corpus; 0 means one for each CPU core.

    Returns:
        {fingerprint, filter, data_sets} as in overlap.json.
    """
    chosen = [tasks.get(task) for task in task_names]
    with stage("overlap", config.model_dump(mode="json") | {"name": name}) as at:
        corpus = artifacts.checkout(at.workspace, documents)
        table = make_overlap(at, config, name, corpus, chosen, workers)
        found: dict[str, Any] = json.loads((table.path / "overlap.json").read_text())
        show_overlap(name, found)
        return found | {"fingerprint": table.fingerprint}


def make_overlap(
    at: Stage,
    config: OverlapConfig,
    name: str,
    corpus: Artifact,
    chosen: Sequence[Task],
    workers: int,
    *,
    data: Path | None = None,
) -> Artifact:
    """Make the table of one corpus; `data` is the folder of the rows, if not the project's."""
    folder = data or at.workspace.data

    def step(out: Path, progress: Progress) -> dict[str, Any]:
        from modules.corpus.overlap import overlap_table

        with spread(workers) as here:
            return overlap_table(
                corpus.path, folder, chosen, out, config, spread=here, progress=progress
            )

    files = [
        find_split(task, folder, split)
        for task in chosen
        for split in sorted({asked_split(task), *({"train"} & set(task.splits))})
    ]
    return at.make(
        Kind.REPORT,
        f"{name}-overlap",
        step,
        config=OverlapStep(overlap=config, versions={task.name: task.version for task in chosen}),
        inputs={
            "documents": corpus,
            "tasks": versions.data_fingerprint(at.workspace, sorted(set(files))),
        },
        version=1,
        title=f"overlap of {len(chosen)} data sets with {corpus.name}",
    )


def show_overlap(name: str, found: dict[str, Any]) -> None:
    """Show the paper's table, and what stands behind each number."""
    rows = [
        (
            row["task"],
            _percent(row["own_train"]),
            _percent(row["corpus"]),
            row["ngrams"],
            f"{row['items_with_any']:,} of {row['items']:,}",
            row["items_over_15_percent"],
        )
        for row in found["data_sets"]
    ]
    header = [
        "data set",
        "own train split",
        "corpus, train",
        "8-grams",
        "items with any",
        "over 15 %",
    ]
    facts = found["filter"]
    note = (
        f"{facts['distinct_ngrams']:,} different n-grams in the training documents; "
        f"{facts['random_hits']} of {facts['random_strings']:,} random strings found by mistake."
    )
    text = f"# Overlap of evaluation sets with {name}\n\n{markdown_table(header, rows)}\n\n{note}"
    show("overlap", text, "Share of test 8-grams found in training text (GPT-2 paper, Table 6)")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"
