"""`textmill study NAME`: a table or figure of the papers, each in one command."""

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
    zero_shot = "zero-shot"


@app.command()
def study(
    name: Annotated[
        Study,
        typer.Argument(help="GPT-1: Tables 2-4; Table 5; Figure 2 left, and right. GPT-2: all."),
    ],
    preset: Annotated[
        str,
        typer.Option(help="A named run: sample, tiny, gpt1, ...; default: study, or zero-shot."),
    ] = "",
    task: Annotated[list[str] | None, typer.Option(help="Only this task (repeatable).")] = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds 0, 1, ... of each cell.")] = None,
    data: Annotated[str, typer.Option(help="Folder with finetune/TASK; default: data.")] = "",
    checkpoint: Annotated[
        str,
        typer.Option(
            help="What to start from; default: the preset's, made where missing. zero-shot: A,B,..."
        ),
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="Also write page and plots there, e.g. docs/gpt1.")
    ] = None,
    settings: Setting = None,
) -> None:
    """Run a study of a paper: a report with tables and plots, the paper's numbers beside ours.

    What is there already is not made again: a study that was killed goes on.
    """
    zero_shot = name is Study.zero_shot
    preset = preset or ("zero-shot" if zero_shot else "study")
    options = given(task, seeds, data, "zero_shot" if zero_shot else "finetune")
    config = changed(load_preset(preset, settings), options)
    if checkpoint and name is Study.heuristics:
        raise ValueError("study heuristics pretrains with snapshots: it takes no --checkpoint")
    if zero_shot and seeds is not None:
        raise ValueError("study zero-shot trains nothing on a task: it takes no --seeds")
    config.zero_shot.chosen() if zero_shot else config.finetune.chosen()
    workspace = begin()
    config.finetune.folder(workspace.root)
    summary = run_flow(*call(name, config, checkpoint))
    console.print(plain(summary["markdown"]))
    console.print(f"report: {summary['report']}")
    if out:
        from flows.study import copy_to

        for path in copy_to(summary, out):
            console.print(f"wrote {path}")


def given(task: list[str] | None, seeds: int | None, data: str, asked: str) -> list[str]:
    """Return the options as changes of the run's settings; `asked` is the part with the tasks.

    Raises:
        ValueError: there would be no seed.
    """
    import json

    changes = [f"finetune.data={Path(data).resolve()}"] if data else []
    if task:
        changes.append(f"{asked}.tasks={json.dumps(task)}")
    if seeds is not None:
        if seeds < 1:
            raise ValueError(f"--seeds {seeds}: a study needs at least 1")
        changes.append(f"finetune.seeds={json.dumps(list(range(seeds)))}")
    return changes


def call(name: Study, config: Any, checkpoint: str) -> tuple[Any, ...]:
    """Return a study's flow and its arguments."""
    from modules.presets import RUNS, sizes

    if name is Study.zero_shot:
        from flows.study_zero_shot import study_zero_shot

        named = tuple(checkpoint.split(",")) if checkpoint else ()
        return study_zero_shot, config, sizes(config), named
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
