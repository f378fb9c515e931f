"""What follows a fine-tuning: its page of calibration and confusion, and its registration."""

import json
from collections.abc import Mapping
from typing import Any

from flows.charts import reliability
from flows.page import Block, Picture, Quote, Quotes, Shown, as_markdown
from flows.promote import register_tuned
from flows.stage import Stage, show
from modules.run import FinetuneRun
from registry import artifacts

NUMBERS = ("accuracy", "confidence", "log_loss", "brier", "ece_equal_width", "ece_equal_mass")
AT_MOST = 400_000  # characters of a page in the Prefect UI


def follow(at: Stage, config: FinetuneRun, name: str, made: Mapping[str, Any]) -> None:
    """Show how sure the tuned checkpoints may be; register the first seed of the paper's method."""
    done = {
        key: artifacts.look_up(at.workspace, cell["fingerprint"])
        for key, cell in made.items()
        if "fingerprint" in cell
    }
    found = {
        key: json.loads((tuned.path / "diagnosis.json").read_text())
        for key, tuned in done.items()
        if (tuned.path / "diagnosis.json").exists()  # a task of scores has none
    }
    if found:
        blocks = [calibration(found), *(b for key in found for b in blocks_of(key, found[key]))]
        page = as_markdown("Fine-tuned: calibration", blocks, at_most=AT_MOST)
        show("calibration", page, "Calibration, confusion and worst mistakes of the checkpoints")
    now = {artifact.fingerprint for artifact in at.made}
    for key, diagnosis in found.items():
        if done[key].fingerprint in now:
            at.log({f"{key}/{what}": diagnosis["calibration"][what] for what in NUMBERS})
            at.log({f"{key}/temperature": diagnosis["temperature"]})
            at.attach(reliability(diagnosis["bins"]), f"calibration-{key}.png")
    first = f"-s{config.seeds[0]}" if config.seeds[0] else ""
    if config.register_models and config.training.use == "auxiliary":
        for task in config.tasks:
            if tuned := done.get(task + first):
                register_tuned(at, f"textmill-{name}-{task}".lower(), tuned)


def calibration(found: Mapping[str, Any]) -> Shown:
    """Show the calibration numbers of all checkpoints, as they are and as they could be."""
    rows = [
        [
            key,
            *(f"{d['calibration'][what]:.3f}" for what in NUMBERS),
            f"{d['temperature']:.2f}",
            f"{d['scaled']['ece_equal_mass']:.3f}",
        ]
        for key, d in found.items()
    ]
    header = ["model", *(what.replace("_", " ") for what in NUMBERS), "temperature", "ECE with it"]
    note = (
        "ECE: expected calibration error, 15 bins of equal width or of equal mass. Brier: summed "
        "over the classes. The temperature is fitted on the validation split and not applied; the "
        "last column is the ECE of equal mass that it would give."
    )
    return Shown("Calibration", header, rows, note)


def blocks_of(key: str, diagnosis: Mapping[str, Any]) -> list[Block]:
    """Return the blocks of one checkpoint."""
    names = diagnosis["labels"]
    rows = [
        [
            name,
            *map(str, counts),
            *(f"{line[what]:.3f}" for what in ("precision", "recall", "f1")),
        ]
        for name, counts, line in zip(
            names, diagnosis["confusion"], diagnosis["classes"], strict=True
        )
    ]
    header = ["truth", *(f"as {name}" for name in names), "precision", "recall", "F1"]
    mistakes = [
        Quote(
            [f"{m['prediction']}, {m['confidence']:.1%} sure", f"truth: {m['truth']}", m["id"]],
            "\n".join(f"{column}: {text}" for column, text in m["texts"].items()),
        )
        for m in diagnosis["mistakes"]
    ]
    return [
        Shown(f"{key}: confusion, {diagnosis['split']}", header, rows),
        Picture(f"{key}: reliability", reliability(diagnosis["bins"])),
        Quotes(f"{key}: most confident mistakes", mistakes),
    ]
