"""How a training went, as pictures: loss over tokens and hours, rate, gradient, speed."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flows.charts import ACCENT, INK, PALE, in_prefixes, png_of, subplots

Rows = Sequence[Mapping[str, Any]]
GAP = 600.0  # seconds without an event: nothing was trained meanwhile


def learning_curve(
    curve: Rows, floors: Mapping[str, float], *, events: Rows = (), skipped: Sequence[int] = ()
) -> bytes:
    """Draw training and validation loss (nats a token) over tokens, and how the run went.

    Args:
        curve: rows of curve.jsonl.
        floors: the held-out split's n-gram cross-entropies, drawn as lines.
        events: of the run's event file, in order; with them come loss over hours, the gradient's
            norm and the speed.
        skipped: steps that were not applied, drawn as marks.
    """
    timed = list(with_hours(events))
    short = bool(timed) and timed[-1]["hours"] < 1
    clock = "minutes" if short else "hours"
    figure, axes = subplots(3 if timed else 1, 2 if timed else 1)
    _loss(axes[0], curve, "tokens", "tokens read", floors)
    _mark(axes[0], curve, skipped)
    if timed:
        _loss(axes[1], timed, clock, f"{clock} of training", floors)
        axes[1].get_legend().remove()
        _line(axes[2], timed, "step", "lr", "learning rate")
        _line(axes[3], timed, "step", "grad_norm", "gradient norm, before clipping", log=True)
        axes[4].yaxis.set_major_formatter(in_prefixes())
        _line(axes[4], timed, clock, "tokens_per_second", "tokens a second")
        _line(axes[5], timed, clock, "mfu", "MFU, % of the measured ceiling", scale=100)
        for place in (2, 3):
            for step in skipped:
                axes[place].axvline(step, color=ACCENT, linewidth=0.8)
    return png_of(figure)


def with_hours(events: Rows) -> Iterator[dict[str, Any]]:
    """Yield events with the hours trained until each; the time between attempts does not count.

    A step that a resumed run repeats counts once: what came after its checkpoint is dropped.
    """
    kept: list[dict[str, Any]] = []
    clock = before = 0.0
    attempt = None
    for event in events:
        if "loss" not in event:
            continue
        if event["attempt"] != attempt:  # resumed: it goes on after its checkpoint
            attempt, before = event["attempt"], event["time"]
            kept = [old for old in kept if old["step"] < event["step"]]
            clock = kept[-1]["hours"] if kept else 0.0
        clock += max(0.0, event["time"] - before) / 3600
        before = event["time"]
        kept.append({**event, "hours": clock, "minutes": 60 * clock})
    yield from kept


def _loss(axes: Any, rows: Rows, x: str, label: str, floors: Mapping[str, float]) -> None:
    for name, style in (
        ("loss", {"color": PALE, "linewidth": 1, "label": "training"}),
        ("val_loss", {"color": INK, "marker": "o", "markersize": 3, "label": "validation"}),
    ):
        if points := _points(rows, x, name):
            axes.plot(*zip(*points, strict=True), **style)
    for name, value in floors.items():
        axes.axhline(value, color=ACCENT, linewidth=0.8, linestyle="--")
        axes.annotate(
            f"{name} {value:.2f}",
            (1, value),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            color=ACCENT,
            fontsize=8,
        )
    axes.set(xlabel=label, ylabel="loss, nats a token")
    if x == "tokens":
        axes.xaxis.set_major_formatter(in_prefixes())
    axes.legend(frameon=False, fontsize=8)


def _line(
    axes: Any, rows: Rows, x: str, y: str, label: str, *, log: bool = False, scale: float = 1
) -> None:
    """Draw one number of each row."""
    if points := [(place, scale * value) for place, value in _points(rows, x, y)]:
        axes.plot(*zip(*points, strict=True), color=INK, linewidth=1)
    else:
        axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes, color=PALE)
    if log and points:
        axes.set_yscale("log")
    axes.set(xlabel="optimizer step" if x == "step" else f"{x} of training", ylabel=label)


def _mark(axes: Any, curve: Rows, skipped: Sequence[int]) -> None:
    """Draw a mark at the tokens of each step that was not applied."""
    if not curve or not skipped:
        return
    a_step = curve[-1]["tokens"] / curve[-1]["step"]
    for place, step in enumerate(skipped):
        label = "not applied" if place == 0 else None
        axes.axvline(step * a_step, color=ACCENT, linewidth=0.8, label=label)
    axes.legend(frameon=False, fontsize=8)


def _points(rows: Rows, x: str, y: str) -> list[tuple[float, float]]:
    """Return the rows' points that can be drawn."""
    pairs = [(row.get(x), row.get(y)) for row in rows]
    return [(a, b) for a, b in pairs if a is not None and b is not None and math.isfinite(b)]
