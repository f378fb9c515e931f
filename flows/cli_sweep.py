"""`textmill sweep`: try learning rates of fine-tuning."""

from typing import Annotated

import typer

from flows.logs import begin
from flows.options import Preset, Setting, load_preset
from flows.terminal import console, plain, run_flow

app = typer.Typer()


@app.command()
def sweep(
    preset: Preset = "sample",
    task: Annotated[list[str] | None, typer.Option(help="Tasks; none: the preset's.")] = None,
    lr: Annotated[list[float] | None, typer.Option(help="Learning rates to try.")] = None,
    epochs: Annotated[list[int] | None, typer.Option(help="Lengths to try with each.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Give a trial up after so many validations no better.")
    ] = None,
    settings: Setting = None,
) -> None:
    """Try learning rates on a preset's checkpoint; the validation rows choose."""
    from modules.training.sweep import SweepConfig
    from registry import artifacts

    config = load_preset(preset, settings)
    chosen = config.finetune.but(tasks=tuple(task)) if task else config.finetune
    tried = SweepConfig(rates=tuple(lr or ()), epochs=tuple(epochs or ()), patience=patience)
    chosen.chosen()
    artifacts.look_up(begin(), checkpoint := f"checkpoint/{config.name}")
    from flows.sweep import sweep as flow

    found = run_flow(flow, chosen, tried, config.name, checkpoint)
    console.print(plain(found["markdown"]))
