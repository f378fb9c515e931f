"""Loss spikes: when a loss stands out, and which micro-batches a rollback leaves out.

PaLM (Chowdhery et al. 2022, section 5.1) restarted from about 100 steps before a spike and left out
the 200 to 500 batches around it; the spikes did not come back, and the same batches did no harm at
another time. Everything here is a pure function of the losses and the config: a run that is killed,
or whose checkpoints lie elsewhere, comes to the same decisions and the same bits.
"""

from collections.abc import Callable, Sequence
from statistics import median

from modules.training.config import SpikeConfig

Ranges = list[tuple[int, int]]
"""Micro-batch numbers that are left out, as rising (first, stop) that do not touch."""


def limit(losses: Sequence[float], config: SpikeConfig) -> float | None:
    """Return the loss from which on a step is a spike; None until there are enough losses."""
    if not config.mads or len(losses) < config.window:
        return None
    middle = median(losses)
    spread = median(abs(loss - middle) for loss in losses)
    return middle + config.mads * spread if spread else None


def position(number: int, left_out: Ranges) -> int:
    """Return the micro-batch that is read as the `number`-th when some are left out."""
    for first, stop in left_out:
        if number < first:
            break
        number += stop - first
    return number


def go_back(
    done: int, left_out: Ranges, config: SpikeConfig, before: Callable[[int], int]
) -> tuple[int, Ranges]:
    """Return the step to go back to from a spike in the step after `done`, and what is left out.

    Args:
        before: how many micro-batches there are in all steps before one.
    """
    to = max(0, done - config.back)
    ends = (position(before(step), left_out) for step in (to, done + 1 + config.ahead))
    return to, leave_out(left_out, *ends)


def leave_out(left_out: Ranges, first: int, stop: int) -> Ranges:
    """Return the ranges with one more, those that it touches made one with it."""
    apart = [r for r in left_out if r[1] < first or r[0] > stop]
    touching = [r for r in left_out if r not in apart]
    joined = (min([first, *(a for a, _ in touching)]), max([stop, *(b for _, b in touching)]))
    return sorted([*apart, joined])
