"""Start a training process from a flow and pass on what it says: progress, curves, its end."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.amounts import duration
from flows.stage import Interrupted, Stage
from modules.config import Config
from modules.files import Progress

TOLD = ("loss", "val_loss", "lr", "tokens_per_second", "mfu", "val_accuracy", "grad_norm")
SEND_SECONDS = 15.0  # between batches of metrics to MLflow; the training step never waits for it


def train(
    at: Stage,
    kind: str,
    config: Config,
    inputs: Mapping[str, Path | Mapping[str, Path]],
    out: Path,
    progress: Progress,
    *,
    task: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run one training job in a process of its own; return its counts.

    Args:
        environment: what the process finds in its environment beside this one's: its device.

    Raises:
        Interrupted: it was stopped or killed; its checkpoints are kept.
        ValueError: it failed; the message is the training process's own.
    """
    from modules.training.fit import launch

    metrics = Metrics(at)

    def on_event(event: dict[str, Any]) -> None:
        if at.stopping:
            raise Interrupted("the flow around this training is stopping")
        metrics.take(event)
        if "of" in event:
            progress(event["step"], event["of"], note(event))

    job = {
        "kind": kind,
        "config": config.model_dump(mode="json"),
        "inputs": {name: text_of(given) for name, given in inputs.items()},
        "task": task,
        "out": str(out),
        "events": str(at.workspace.state / "training" / out.parent.name / f"{out.stem}.jsonl"),
    }
    result = launch(job, on_event=on_event, environment=environment)
    metrics.send()
    if result.state == "interrupted":
        raise Interrupted(
            f"training of {out.parent.name} stopped at step {result.step} "
            f"{result.error}; run the same command again to continue"
        )
    if result.state == "failed":
        raise ValueError(f"training of {out.parent.name} failed: {result.error}")
    return {"steps": result.step}


def text_of(given: Path | Mapping[str, Path]) -> str | dict[str, str]:
    """Return an input of a job, a path or paths by name, as its JSON has it."""
    return str(given) if isinstance(given, Path) else {k: str(path) for k, path in given.items()}


class Metrics:
    """Collects events and sends them to MLflow a few seconds' worth at a time."""

    def __init__(self, at: Stage) -> None:
        self.at, self.sent = at, time.monotonic()
        self.waiting: list[tuple[int, dict[str, float]]] = []

    def take(self, event: dict[str, Any]) -> None:
        """Note one event's numbers; send what waits when it is time."""
        chosen = [n for n in event if n in TOLD or n.startswith("val_loss/")]  # of each domain
        found = {f"train/{name}": float(event[name]) for name in chosen}
        if found:
            self.waiting.append((int(event["step"]), found))
        if time.monotonic() - self.sent > SEND_SECONDS:
            self.send()

    def send(self) -> None:
        """Send all that waits."""
        self.sent = time.monotonic()
        self.at.log_series(self.waiting)
        self.waiting = []


def note(event: Mapping[str, Any]) -> str:
    """Return the words beside a progress bar."""
    words = [
        f"{name.replace('_', ' ')} {event[name]:.3f}"
        for name in ("loss", "val_loss")
        if name in event
    ]
    if rate := event.get("tokens_per_second"):
        words.append(f"{rate / 1000:.1f}k tokens/s")
    if mfu := event.get("mfu"):
        words.append(f"MFU {mfu:.0%}")
    if eta := event.get("eta"):
        words.append(f"{duration(eta)} left")
    return ", ".join(words)
