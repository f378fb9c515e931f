"""What schedules run, by hand: `textmill continue`, `textmill evaluate-new`."""

import typer

from flows.logs import begin
from flows.options import Preset, Setting, changed, load_preset
from flows.terminal import console, run_flow

app = typer.Typer()


@app.command("continue")
def continue_(preset: Preset = "sample", settings: Setting = None) -> None:
    """Train a preset's champion further on the newest tokens; score it; let it compete."""
    from modules.presets import continued

    config = changed(continued(load_preset(preset, None)), settings or [])
    begin()
    from flows.continue_pretraining import continue_pretraining

    console.print(run_flow(continue_pretraining, config)["decision"])


@app.command()
def evaluate_new(preset: Preset = "sample", settings: Setting = None) -> None:
    """Score every checkpoint that has no scores yet, and offer it to its model."""
    config = load_preset(preset, settings).zero_shot
    begin()
    from flows.evaluate_new import evaluate_new as run

    decided = run_flow(run, config)
    for decision in decided.values() or ["every checkpoint has scores"]:
        console.print(decision)
