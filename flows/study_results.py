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
from modules.run import RunConfig
from modules.task import Task
from registry.artifacts import Artifact

FULL = "full"
GLUE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")
PAPER_GLUE = 72.8  # GPT-1 paper, Table 4


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
    found: list[Block] = [table]
    if set(GLUE) <= set(grid.whole):
        found.append(glue_table(grid))
    title = "Score in percent (mark: the majority class)"
    return [*found, Picture(title, bars(values, "score, %", marks))]


def scores_table(grid: Grid, data: Path) -> Shown:
    """Return a row a task and metric: ours, the baselines, the paper's."""
    return Shown(
        f"Fine-tuned, {len(grid.seeds)} seeds",
        [
            *("task", "metric", "split", "items", "majority", "TF-IDF + LR"),
            *("ours", "95 % interval", "by seed", "GPT-1 paper"),
        ],
        [row_of(grid, tasks.get(name), data) for name in grid.tasks],
        TESTS + " The baselines are accuracies. The paper's number stands only where the set is "
        "the paper's; its GLUE numbers are of GLUE's test server, ours of the validation sets.",
    )


def row_of(grid: Grid, task: Task, data: Path) -> list[str]:
    """Return a task's row."""
    from modules.evaluation.baselines import majority, tfidf

    split = "test" if "test" in task.splits else "val"
    metric, entry = next(iter(task.metrics)), grid.entries.get((FULL, task.name))
    floors = ["-", "-"]
    if metric == "accuracy":
        floors = [percent(score(task, data, split).value) for score in (majority, tfidf)]
    if entry is None:
        return [task.name, metric, split, "-", *floors, "failed", "-", "-", paper_of(task)]
    return [
        *(task.name, metric, split, str(len(entry.given.ids)), *floors, percent(entry.mean)),
        *(span(*entry.interval), ", ".join(map(percent, entry.values)), paper_of(task)),
    ]


def paper_of(task: Task) -> str:
    """Return GPT-1's own result on a set, if this is the paper's set."""
    found = task.reference.get("GPT-1")
    return "-" if found is None else f"{found:.1f}"


def glue_table(grid: Grid) -> Shown:
    """Return GLUE's average: tasks of two metrics or two sets count once, as their mean."""
    rows, each = [], []
    for name in GLUE:
        values = [
            mean(score["value"] for score in cell["scores"])
            for label, cell in grid.tuned.items()
            if label == name or label.startswith(f"{name}-s")
        ]
        each.append(mean(values))
        rows.append([name, percent(each[-1])])
    rows.append(["GLUE", percent(mean(each))])
    return Shown(
        "GLUE's average",
        ["task", "mean of its metrics"],
        rows,
        f"The paper's is {PAPER_GLUE}, from GLUE's test server (Table 4; the mean over nine tasks "
        "with WNLI); ours is of the validation sets.",
    )
