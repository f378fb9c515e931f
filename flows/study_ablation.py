"""study ablation: what pre-training, the auxiliary loss and the Transformer are worth.

GPT-1 paper, section 5, Table 5 (full, without pre-training, without auxiliary LM, LSTM), and one
row more: the pre-trained states as fixed features (section 2, related work).
"""

from typing import Any

from prefect import flow

from flows.cells import SIDE_BY_SIDE
from flows.charts import grouped
from flows.grid import Grid, Way, run_grid
from flows.page import Block, Picture, Shown
from flows.stage import stage
from flows.study import TESTS, Summary, base, cell_text, finish, percent, told
from modules import presets, tasks
from modules.paper import TABLE_5, TABLE_5_AVERAGES
from modules.run import RunConfig
from registry.artifacts import Artifact

FULL, SCRATCH, NO_AUX = "full", "no pre-training", "no auxiliary LM"
LSTM, FEATURES = "LSTM", "features (frozen)"


@flow(name="study-ablation", flow_run_name="study-ablation-{config.name}", task_runner=SIDE_BY_SIDE)
def study_ablation(
    config: RunConfig = presets.STUDY,
    lstm: RunConfig | None = presets.STUDY_LSTM,
    checkpoint: str = "",
    lstm_checkpoint: str = "",
) -> Summary:
    """Fine-tune in five ways on every task, over several seeds, and test the differences.

    Args:
        config: The Transformer's run: its pretraining, the tasks, the seeds and the settings.
        lstm: The LSTM's run, of which the pretraining counts; none: the row is left out.
        checkpoint: What to start from; empty: the run's own, pretrained where it is missing.
        lstm_checkpoint: The same for the LSTM.

    Returns:
        What the command line prints, and the report's folder.
    """
    with stage("study-ablation", config.model_dump(mode="json")) as at:
        start = base(at, config, checkpoint)
        other = base(at, lstm, lstm_checkpoint) if lstm else None
        grid = run_grid(at, config.finetune, ways(start, other))
        return finish(
            at, "ablation", start, blocks(grid), tuned=grid.tuned, inputs=with_lstm(other)
        )


def with_lstm(other: Artifact | None) -> dict[str, Artifact]:
    """Return the report's further input."""
    return {"lstm": other} if other else {}


def ways(start: Artifact, lstm: Artifact | None) -> list[Way]:
    """Return the rows of the table."""
    rows = [
        Way(FULL, "", start, {"use": "auxiliary"}),
        Way(SCRATCH, "scratch", start, {"use": "scratch"}),
        Way(NO_AUX, "initialise", start, {"use": "initialise"}),
        Way(FEATURES, "features", start, {"use": "features"}),
    ]
    if lstm:
        rows.append(Way(LSTM, "lstm", lstm, {"use": "auxiliary"}))
    return rows


def blocks(grid: Grid) -> list[Block]:
    """Return the report: our table, the tests against the full method, the paper's table."""
    return [
        scores_table(grid),
        differences_table(grid),
        Picture("Score by task and way to train, with 95 % intervals", picture(grid)),
        paper_table(),
    ]


def paper_table() -> Shown:
    """Return the paper's table."""
    return Shown(
        f"The paper: {TABLE_5.title}",
        ["way", "average", *(column.title for column in TABLE_5.columns)],
        [
            [way, f"{TABLE_5_AVERAGES[way]:.1f}", *(f"{x:.1f}" for x in row)]
            for way, row in TABLE_5.rows.items()
        ],
        "12 layers of 768, pre-trained on BooksCorpus; GLUE's test sets.",
    )


def scores_table(grid: Grid) -> Shown:
    """Return the means over seeds with their intervals."""
    rows = [
        [way, average(grid, way), *(cell_text(grid, way, t) for t in grid.tasks)]
        for way in grid.ways
    ]
    heads = [f"{t} ({headline(t)})" for t in grid.tasks]
    return Shown(
        f"Ways to use pre-training, {len(grid.seeds)} seeds",
        ["way", "average", *heads],
        rows,
        TESTS + " Without pre-training the auxiliary loss stays on; the paper does not say.",
    )


def average(grid: Grid, way: str) -> str:
    """Return a way's mean over the tasks that all ways have done."""
    return percent(grid.average_value(way)) if grid.whole else "-"


def headline(task: str) -> str:
    """Return the name of a task's first metric."""
    return next(iter(tasks.get(task).metrics))


def differences_table(grid: Grid) -> Shown:
    """Return how much the full method is ahead of each other way, with p values."""
    rows = []
    for way in grid.ways[1:] if grid.whole else ():
        each = {task: grid.compare(FULL, way, task) for task in grid.whole}
        worse = [task for task, found in each.items() if found.significant and found.mean < 0]
        rows.append(
            [
                way,
                told(grid.compare_average(FULL, way)),
                f"{grid.pairs(FULL, way):.2g}",
                ", ".join(worse) or "none",
                *(told(found) for found in each.values()),
            ]
        )
    return Shown(
        "The full method against each other way, in points",
        ["against", "average", "signed-rank p", "significantly worse on", *grid.whole],
        rows,
        "The signed-rank test (Wilcoxon) is over all pairs of task and seed; seeds of one task "
        "share its test items, so the resampled p of the average is the one to go by.",
    )


def picture(grid: Grid) -> bytes:
    """Draw a group of bars a task, with intervals."""
    values: dict[str, dict[str, Any]] = {
        way: {
            task: (entry.mean, *entry.interval)
            for task in grid.tasks
            if (entry := grid.entries.get((way, task)))
        }
        for way in grid.ways
    }
    return grouped(values, "score")
