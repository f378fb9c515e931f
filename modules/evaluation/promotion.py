"""Is a challenger better than the champion, set by set, and by more than chance?

On each named set the difference is taken with its 95 % interval: a paired bootstrap over the same
items where both kept them (modules/evaluation/comparison.py), else from the two stored intervals as
if they were independent, which is wider where both find the same items hard. The champion is
replaced if the mean over the sets is better and no set is worse by more than chance.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from modules.config import Config
from modules.evaluation.comparison import Array, Outcomes, interval_of, resampled
from modules.task import Metric

QUANTILE = 1.959964  # of the normal distribution at 97.5 %
Verdict = Literal["better", "worse", "no difference"]


class GuardConfig(Config):
    """What decides over a promotion."""

    metric: str = "bits_per_byte"
    """The score that is compared; bits per byte compares models of any vocabulary. A fine-tuned
    checkpoint is judged by its task's first score on the whole validation split instead."""
    sets: tuple[str, ...] = ()
    """Tasks that decide, all of which both must have been scored on; none: every one that both
    were scored on by the same protocol."""
    policy: Literal["no set worse", "significant", "mean"] = "no set worse"
    """no set worse: the mean is better, and no set is worse by more than chance. significant: the
    mean is better by more than chance as well. mean: only the mean counts."""
    samples: int = Field(2000, ge=100)
    """Resamples behind each interval."""
    seed: int = 0
    """Seed of the resampling."""


@dataclass(frozen=True)
class Measured:
    """A score on one set by one protocol, and the answers behind it where they were kept."""

    task: str
    value: float
    low: float | None  # 95 % interval
    high: float | None
    metric: Metric | None = None
    items: Outcomes | None = None


@dataclass(frozen=True)
class SetDifference:
    """Challenger minus champion on one set."""

    name: str  # task, split, version and protocol
    task: str
    new: float
    old: float
    low: float  # 95 % interval of new - old
    high: float
    items: int  # resampled in pairs; 0: from the stored intervals
    lower_is_better: bool

    @property
    def value(self) -> float:
        """The difference."""
        return self.new - self.old

    @property
    def verdict(self) -> Verdict:
        """What chance does not explain: an interval that leaves out 0."""
        if self.low <= 0 <= self.high:
            return "no difference"
        return "better" if (self.value < 0) == self.lower_is_better else "worse"


@dataclass(frozen=True)
class Judgement:
    """Whether to promote, why, and what that was decided on."""

    promote: bool
    why: str
    sets: tuple[SetDifference, ...] = ()


def judge(
    new: Mapping[str, Measured],
    old: Mapping[str, Measured],
    config: GuardConfig,
    *,
    lower_is_better: bool,
    unit: str,
) -> Judgement:
    """Compare a challenger with the champion on the sets (with protocol) that both have."""
    common = sorted(set(new) & set(old))
    if config.sets:
        common = [name for name in common if new[name].task in config.sets]
        if missing := sorted(set(config.sets) - {new[name].task for name in common}):
            why = f"not scored for both with the same protocol: {', '.join(missing)}"
            return Judgement(False, why)
    if not common:
        return Judgement(False, "no set was scored for both with the same protocol")
    draws = [differences(name, new[name], old[name], config) for name in common]
    sets = tuple(
        SetDifference(
            name,
            new[name].task,
            new[name].value,
            old[name].value,
            *interval_of(draw),
            items=len(paired.ids) if (paired := pairs(new[name], old[name])) else 0,
            lower_is_better=lower_is_better,
        )
        for name, draw in zip(common, draws, strict=True)
    )
    return _decide(sets, interval_of(np.mean(draws, 0)), config, unit)


def _decide(
    sets: tuple[SetDifference, ...], interval: tuple[float, float], config: GuardConfig, unit: str
) -> Judgement:
    """Apply the policy to the differences and the interval of their mean."""
    new, old = (float(np.mean([getattr(x, side) for x in sets])) for side in ("new", "old"))
    sign = "<" if new < old else ">" if new > old else "="
    why = f"{new:.4f} {sign} {old:.4f} {unit} over {len(sets)} sets"
    why += f" (difference {interval[0]:+.4f} to {interval[1]:+.4f})"
    better = new < old if sets[0].lower_is_better else new > old
    worse = list(dict.fromkeys(x.task for x in sets if x.verdict == "worse"))
    if better and worse and config.policy != "mean":
        return Judgement(False, f"{why}, but worse by more than chance on {', '.join(worse)}", sets)
    if better and config.policy == "significant" and interval[0] <= 0 <= interval[1]:
        return Judgement(False, f"{why}, which chance explains", sets)
    return Judgement(better, why, sets)


def pairs(new: Measured, old: Measured) -> Outcomes | None:
    """Return the challenger's answers if the champion's are about the same items."""
    mine, theirs = new.items, old.items
    if mine is None or theirs is None or new.metric is None:
        return None
    same = (mine.ids, mine.references) == (theirs.ids, theirs.references)
    return mine if same else None


def differences(name: str, new: Measured, old: Measured, config: GuardConfig) -> Array:
    """Return (samples,) draws of the difference on one set.

    Raises:
        ValueError: neither answers nor an interval were kept.
    """
    # one set asked in two ways is drawn alike; different sets independently of each other
    seed = config.seed + zlib.crc32(new.task.encode())
    if pairs(new, old) and new.items and old.items and new.metric:
        drawn = [
            resampled(new.metric, items, samples=config.samples, seed=seed)
            for items in (new.items, old.items)
        ]
        found: Array = drawn[0] - drawn[1]
        return found
    spread = np.hypot(_deviation(name, new), _deviation(name, old))
    return np.random.default_rng(seed).normal(new.value - old.value, spread, config.samples)


def _deviation(name: str, score: Measured) -> float:
    """Return a score's standard deviation from its 95 % interval."""
    if score.low is None or score.high is None:
        raise ValueError(f"{name}: neither answers nor an interval were kept; score it again")
    return (score.high - score.low) / 2 / QUANTILE


def rows_of(sets: Sequence[SetDifference]) -> list[tuple[str, ...]]:
    """Return a table's rows: set, both values, difference, interval, how, verdict, protocol."""
    return [
        (
            x.task,
            f"{x.new:.4f}",
            f"{x.old:.4f}",
            f"{x.value:+.4f}",
            f"{x.low:+.4f} to {x.high:+.4f}",
            f"{x.items:,} items in pairs" if x.items else "stored intervals",
            x.verdict,
            x.name.removeprefix(x.task).strip(),
        )
        for x in sets
    ]


HEADER = (
    *("set", "challenger", "champion", "difference", "95 % interval", "from", "verdict"),
    "protocol",
)
