"""`textmill study NAME`: a table or figure of the GPT-1 paper, each in one command."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.logs import begin
from flows.options import Setting, changed, load_preset
from flows.terminal import console, plain, run_flow

app = typer.Typer()


class Study(StrEnum):
    """The studies there are."""

    results = "results"
    ablation = "ablation"
    layers = "layers"
    heuristics = "heuristics"


@app.command()
def study(
    name: Annotated[Study, typer.Argument(help="Tables 2-4; Table 5; Figure 2 left, and right.")],
    preset: Annotated[
        str, typer.Option(help="A named run: study (seven sets), sample, tiny, gpt1, ...")
    ] = "study",
    task: Annotated[list[str] | None, typer.Option(help="Only this task (repeatable).")] = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds 0, 1, ... of each cell.")] = None,
    data: Annotated[str, typer.Option(help="Folder with finetune/TASK; default: data.")] = "",
    checkpoint: Annotated[
        str, typer.Option(help="What to start from; default: the preset's, made where missing.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="Also write page and plots there, e.g. docs/gpt1.")
    ] = None,
    settings: Setting = None,
) -> None:
    """Run a study of the GPT-1 paper: its cells side by side, a report with tables and plots.

    Cells that are there already are not made again: a study that was killed goes on.
    """
    config = changed(load_preset(preset, settings), given(task, seeds, data))
    if checkpoint and name is Study.heuristics:
        raise ValueError("study heuristics pretrains with snapshots: it takes no --checkpoint")
    config.finetune.chosen()
    workspace = begin()
    config.finetune.folder(workspace.root)
    summary = run_flow(*call(name, config, checkpoint))
    console.print(plain(summary["markdown"]))
    console.print(f"report: {summary['report']}")
    if out:
        from flows.study import copy_to

        for path in copy_to(summary, out):
            console.print(f"wrote {path}")


def given(task: list[str] | None, seeds: int | None, data: str) -> list[str]:
    """Return the options as changes of the run's settings.

    Raises:
        ValueError: there would be no seed.
    """
    import json

    changes = [f"finetune.data={Path(data).resolve()}"] if data else []
    if task:
        changes.append(f"finetune.tasks={json.dumps(task)}")
    if seeds is not None:
        if seeds < 1:
            raise ValueError(f"--seeds {seeds}: a study needs at least 1")
        changes.append(f"finetune.seeds={json.dumps(list(range(seeds)))}")
    return changes


def call(name: Study, config: Any, checkpoint: str) -> tuple[Any, ...]:
    """Return a study's flow and its arguments."""
    from modules.presets import RUNS

    lstm = RUNS.get(f"{config.name}-lstm")
    if name is Study.results:
        from flows.study_results import study_results

        return study_results, config, checkpoint
    if name is Study.ablation:
        from flows.study_ablation import study_ablation

        return study_ablation, config, lstm, checkpoint
    if name is Study.layers:
        from flows.study_layers import study_layers

        return study_layers, config, checkpoint
    from flows.study_heuristics import study_heuristics

    return study_heuristics, config, lstm
