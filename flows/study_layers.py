"""study layers: how much each transferred block helps (GPT-1 paper, section 5, Figure 2 left).

The first k blocks and the embeddings are copied from the checkpoint, the rest is drawn anew; k = 0
copies the embeddings only, as the release's n_transfer, and "nothing" copies nothing. The paper
does not say which of the two its 0 is, so both are there.
"""

from typing import Any

from prefect import flow

from flows.cells import SIDE_BY_SIDE
from flows.charts import curves
from flows.grid import Grid, Way, run_grid
from flows.page import Block, Picture, Shown
from flows.stage import stage
from flows.study import TESTS, Summary, base, cell_text, finish, percent, told
from modules import presets
from modules.run import RunConfig
from registry.artifacts import Artifact

NOTHING = "nothing"


@flow(name="study-layers", flow_run_name="study-layers-{config.name}", task_runner=SIDE_BY_SIDE)
def study_layers(config: RunConfig = presets.STUDY, checkpoint: str = "") -> Summary:
    """Fine-tune with nothing, the embeddings, one block, two blocks, ... taken over.

    Args:
        config: The run: its pretraining, the tasks, the seeds and the settings.
        checkpoint: What to start from; empty: the run's own, pretrained where it is missing.

    Returns:
        What the command line prints, and the report's folder.

    Raises:
        ValueError: the checkpoint is not a Transformer's.
    """
    with stage("study-layers", config.model_dump(mode="json")) as at:
        start = base(at, config, checkpoint)
        grid = run_grid(at, config.finetune, ways(start))
        return finish(at, "layers", start, blocks(grid), tuned=grid.tuned)


def ways(start: Artifact) -> list[Way]:
    """Return a row for each number of blocks; all of them is the full method."""
    n_layer = start.config["model"].get("n_layer")
    if n_layer is None:
        raise ValueError(f"{start.reference} is no Transformer: it has no blocks to transfer")
    some = [
        Way(str(k), f"l{k}", start, {"use": "auxiliary", "transfer_layers": k})
        for k in range(n_layer)
    ]
    return [
        Way(NOTHING, "scratch", start, {"use": "scratch"}),
        *some,
        Way(str(n_layer), "", start, {"use": "auxiliary"}),
    ]


def blocks(grid: Grid) -> list[Block]:
    """Return the report: a table, what each step adds on average, a curve a task."""
    rows: list[list[str]] = []
    for before, way in zip((None, *grid.ways), grid.ways, strict=False):
        rows.append(
            [
                way,
                percent(grid.average_value(way)) if grid.whole else "-",
                told(grid.compare_average(way, before)) if before and grid.whole else "",
                *(cell_text(grid, way, task) for task in grid.tasks),
            ]
        )
    table = Shown(
        f"Blocks transferred, {len(grid.seeds)} seeds",
        ["transferred", "average", "more than the row above", *grid.tasks],
        rows,
        TESTS + " 0: the embeddings alone.",
    )
    paper = Shown(
        "The paper's Figure 2 (left), read by eye",
        ["set", "embeddings", "all 12"],
        [["RACE, dev", "about 40", "about 60"], ["MultiNLI, dev", "about 72", "about 82"]],
        "Every layer helps there, up to 9 points in all on MultiNLI.",
    )
    return [
        table,
        Picture("Score by blocks transferred, with 95 % intervals", picture(grid)),
        paper,
    ]


def picture(grid: Grid) -> bytes:
    """Draw a curve a task."""
    lines: dict[str, list[tuple[Any, ...]]] = {
        task: [
            (way, entry.mean, *entry.interval)
            for way in grid.ways
            if (entry := grid.entries.get((way, task)))
        ]
        for task in grid.tasks
    }
    return curves(lines, "blocks transferred", "score")
