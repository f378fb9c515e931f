"""The commands that size up a preset: `textmill plan` and `textmill profile`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from flows.options import Preset, Setting, load_preset
from flows.terminal import bar, console, print_shown

app = typer.Typer()


@app.command()
def plan(
    preset: Preset = "sample",
    settings: Setting = None,
    measure: Annotated[bool, typer.Option(help="Time some steps on this device.")] = True,
    seconds: Annotated[float, typer.Option(help="How long that may take, about.")] = 30.0,
) -> None:
    """Show what pretraining a preset takes: parameters, FLOPs, memory, tokens, time here."""
    run = load_preset(preset, settings)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # warns of memory older than a profile
    from flows.sizing import plan_tables

    console.print(f"[bold]Plan of {run.name}[/bold]\n")
    with bar("measuring steps") as progress:
        for table in plan_tables(run, measure=measure, seconds=seconds, progress=progress):
            print_shown(table)


@app.command()
def profile(
    preset: Preset = "sample",
    settings: Setting = None,
    trace: Annotated[
        Path | None, typer.Option(help="Where the Chrome trace goes; default: .textmill/profiles.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Steps before the profiled one, about.")] = 10.0,
) -> None:
    """Show where a training step's time and memory go, by phase and operator; write a trace."""
    run = load_preset(preset, settings)
    from flows.settings import enter
    from flows.sizing import measured, operator_table, speed_table

    path = (trace or enter().state / "profiles" / f"{run.name}.json").resolve()
    with bar("profiling steps") as progress:
        found = measured(run.pretrain, "profile", seconds, progress, path)
    print_shown(speed_table(run.pretrain, found))
    print_shown(operator_table(found))
    console.print(f"trace (chrome://tracing, ui.perfetto.dev): {path}", soft_wrap=True)
