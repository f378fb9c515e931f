"""study results: every task's score beside the paper's (GPT-1 paper, Tables 2 to 4, GLUE)."""

from pathlib import Path
from statistics import mean

from prefect import flow

from flows.cells import SIDE_BY_SIDE
from flows.charts import bars
from flows.grid import Grid, Way, run_grid
from flows.page import Block, Picture, Shown
from flows.stage import stage
from flows.study import TESTS, Summary, base, finish, percent, span
from modules import presets, tasks
from modules.glue import GLUE, glue_score
from modules.paper import GLUE_SCORES, GPT1, TABLE_2, TABLE_3, TABLE_4, Column
from modules.run import RunConfig
from modules.task import Task
from registry.artifacts import Artifact

FULL = "full"


@flow(name="study-results", flow_run_name="study-results-{config.name}", task_runner=SIDE_BY_SIDE)
def study_results(config: RunConfig = presets.STUDY, checkpoint: str = "") -> Summary:
    """Fine-tune on every task over several seeds, beside baselines and the paper's results.

    Args:
        config: The run: its pretraining, the tasks, the seeds and the settings.
        checkpoint: What to start from; empty: the run's own, pretrained where it is missing.

    Returns:
        What the command line prints, and the report's folder.
    """
    with stage("study-results", config.model_dump(mode="json")) as at:
        start = base(at, config, checkpoint)
        grid = run_grid(at, config.finetune, [full(start)])
        data = config.finetune.folder(at.workspace.root)
        return finish(at, "results", start, blocks(grid, data), tuned=grid.tuned)


def full(start: Artifact) -> Way:
    """Return the paper's method."""
    return Way(FULL, "", start, {"use": "auxiliary"})


def blocks(grid: Grid, data: Path) -> list[Block]:
    """Return the report: the table, GLUE's average where its tasks are there, bars."""
    table = scores_table(grid, data)
    values = {row[0]: float(row[6]) for row in table.rows if row[6] != "failed"}
    marks = {row[0]: float(row[4]) for row in table.rows if row[4] != "-"}
    title = "Score in percent (mark: the majority class)"
    picture = Picture(title, bars(values, "score, %", marks))
    return [table, picture, *paper_tables(grid), *glue_table(grid)]


def scores_table(grid: Grid, data: Path) -> Shown:
    """Return a row a task and metric: ours, the baselines, the paper's."""
    return Shown(
        f"Fine-tuned, {len(grid.seeds)} seeds",
        [
            *("task", "metric", "split", "items", "majority", "TF-IDF + LR"),
            *("ours", "95 % interval", "by seed", "GPT-1 paper"),
        ],
        [row_of(grid, tasks.get(name), data) for name in grid.tasks],
        TESTS
        + " The paper's number stands only where the set is the paper's. "
        + " ".join(f"{n}: {tasks.get(n).note}." for n in grid.tasks if tasks.get(n).note),
    )


def row_of(grid: Grid, task: Task, data: Path) -> list[str]:
    """Return a task's row."""
    from modules.evaluation.baselines import majority, tfidf

    split = task.scored[0]
    metric, entry = next(iter(task.metrics)), grid.entries.get((FULL, task.name))
    if entry is None:  # for what reason ever: its rows need not be readable either
        return [task.name, metric, split, "-", "-", "-", "failed", "-", "-", paper_of(task)]
    floors = [percent(score(task, data).value) for score in (majority, tfidf)]
    return [
        *(task.name, metric, split, str(len(entry.given.ids)), *floors, percent(entry.mean)),
        *(span(*entry.interval), ", ".join(map(percent, entry.values)), paper_of(task)),
    ]


def paper_of(task: Task) -> str:
    """Return GPT-1's own result on a set, if this is the paper's set."""
    return shown(task.reference.get(GPT1))


def paper_tables(grid: Grid) -> list[Shown]:
    """Return the paper's tables that hold a task of ours, with our row below the paper's."""
    return [
        Shown(
            table.title,
            ["method", *(column.title for column in table.columns)],
            [
                *([method, *map(shown, row)] for method, row in table.rows.items()),
                ["ours", *(shown(ours(grid, column)) for column in table.columns)],
            ],
            "Single models but where (5x) and the like say otherwise.",
        )
        for table in (TABLE_2, TABLE_3, TABLE_4)
        if any(ours(grid, column) is not None for column in table.columns)
    ]


def ours(grid: Grid, column: Column) -> float | None:
    """Return our mean over seeds of what a column of the paper measures, in percent."""
    found = values_of(grid, column.task, column.metric, column.splits)
    return 100 * mean(found) if found else None


def values_of(grid: Grid, task: str, metric: str, splits: tuple[str, ...] = ()) -> list[float]:
    """Return a task's values of a metric, of all seeds (and of these splits, or its headline's)."""
    names = [task + (f"-s{seed}" if seed else "") for seed in grid.seeds]
    wanted = splits or tasks.get(task).scored[:1]
    return [
        score["value"]
        for name in names
        for score in grid.tuned.get(name, {}).get("scores", [])
        if score["metric"] == metric and score["split"] in wanted
    ]


def shown(value: float | None) -> str:
    """Return a number of the paper's tables, or a dash."""
    return "-" if value is None else f"{value:.1f}"


def glue_table(grid: Grid) -> list[Shown]:
    """Return GLUE's score beside the paper's, where all its tasks are there."""
    found = {
        (task, *place): values_of(grid, task, place[1], (place[0],))
        for task, places in GLUE.items()
        for place in places
    }
    if not all(found.values()):
        return []
    score = glue_score({key: mean(values) for key, values in found.items()})
    rows = [[method, f"{value:.1f}"] for method, value in GLUE_SCORES.items()]
    note = "Nine tasks; a task's metrics (or test sets) are averaged first. Ours: validation sets."
    return [
        Shown(
            "GLUE's score (Table 4)", ["method", "score"], [*rows, ["ours", percent(score)]], note
        )
    ]
