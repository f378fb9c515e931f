"""What a study's cells came to: rows (ways to train) by tasks, over seeds, with their tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any
from zlib import crc32

from flows.cells import Cell, Tuned, run_cells
from flows.stage import Stage
from modules import tasks
from modules.evaluation.comparison import (
    Array,
    Difference,
    Outcomes,
    difference,
    interval_of,
    outcomes,
    resampled,
    signed_rank,
)
from modules.files import read_jsonl
from modules.run import FinetuneConfig, FinetuneRun
from registry import artifacts
from registry.artifacts import Artifact


@dataclass(frozen=True)
class Way:
    """One row of a study: what the fine-tuning starts from and what of its settings changes."""

    title: str
    short: str
    """Its part of the cells' names; empty for the full method, so that it is shared by studies."""
    checkpoint: Artifact
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """One way on one task: mean over seeds and its interval."""

    given: Outcomes
    values: list[float]
    draws: Array

    @property
    def mean(self) -> float:
        """Mean over seeds of the headline metric."""
        return mean(self.values)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval over items and seeds."""
        return interval_of(self.draws)


@dataclass(frozen=True)
class Grid:
    """All cells of a study."""

    ways: tuple[str, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    tuned: Tuned
    entries: dict[tuple[str, str], Entry]
    """(way, task) -> its entry, where all seeds are done"""

    @property
    def whole(self) -> list[str]:
        """The tasks on which every way is done."""
        return [t for t in self.tasks if all((way, t) in self.entries for way in self.ways)]

    def average(self, way: str) -> Array:
        """Return the draws of a way's mean over the whole tasks."""
        found: Array = sum(self.entries[way, t].draws for t in self.whole) / len(self.whole)  # type: ignore[assignment]  # sum of arrays
        return found

    def average_value(self, way: str) -> float:
        """Return a way's mean over the whole tasks."""
        return mean(self.entries[way, t].mean for t in self.whole)

    def compare(self, way: str, other: str, task: str) -> Difference:
        """Return how much better a way is than another on a task."""
        a, b = self.entries[way, task], self.entries[other, task]
        return difference(a.draws, b.draws, a.mean - b.mean)

    def compare_average(self, way: str, other: str) -> Difference:
        """Return how much better a way is on average over the tasks, which are taken as given."""
        by = self.average_value(way) - self.average_value(other)
        return difference(self.average(way), self.average(other), by)

    def pairs(self, way: str, other: str) -> float:
        """Return the signed-rank test's p over all pairs (task, seed)."""
        return signed_rank(
            [
                a - b
                for t in self.whole
                for a, b in zip(
                    self.entries[way, t].values, self.entries[other, t].values, strict=True
                )
            ]
        )


def run_grid(at: Stage, run: FinetuneRun, ways: Sequence[Way]) -> Grid:
    """Make all cells of some ways; collect those that are done."""
    names = tuple(task.name for task in run.chosen())
    cells = {
        (way.title, task, seed): Cell(
            task=task,
            checkpoint=way.checkpoint,
            training=settings(run, task, seed, way.changes),
            label="-".join(
                filter(None, [task, way.short, f"s{seed}" if seed else ""]),
            ),
        )
        for seed in run.seeds
        for task in names
        for way in ways
    }
    tuned = run_cells(at, list(cells.values()), data=run.folder(at.workspace.root))
    made = {key: tuned[cell.label] for key, cell in cells.items()}
    entries = {}
    for way in ways:
        for task in names:
            each = [made[way.title, task, seed] for seed in run.seeds]
            if all("fingerprint" in x for x in each):
                entries[way.title, task] = entry(at, task, [x["fingerprint"] for x in each])
    return Grid(tuple(way.title for way in ways), names, run.seeds, tuned, entries)


def settings(run: FinetuneRun, task: str, seed: int, changes: Mapping[str, Any]) -> FinetuneConfig:
    """Return the settings of one cell."""
    return run.settings_of(task, run.training.use, seed).but(**changes)


def entry(at: Stage, task: str, fingerprints: Sequence[str]) -> Entry:
    """Read the predictions of one way on one task, a run a seed."""
    folders = [artifacts.look_up(at.workspace, fingerprint).path for fingerprint in fingerprints]
    given = outcomes([list(read_jsonl(f / "predictions.jsonl.zst")) for f in folders])
    metric = next(iter(tasks.get(task).metrics.values()))
    own = crc32(task.encode())  # the draws of a task are shared by its ways, not by other tasks
    return Entry(given, given.values(metric), resampled(metric, given, seed=own))
