"""Where a row ends: at end-of-text, or at a stop sequence, which may be several tokens long."""

from collections.abc import Iterator, Sequence
from typing import Any


def until(tokens: Iterator[int], stops: list[list[int]], eot: int | None) -> Iterator[int]:
    """Yield tokens up to end-of-text or a stop sequence; hold back what may become one."""
    held: list[int] = []
    for token in tokens:
        if token == eot:
            break
        held.append(token)
        if cut_stop(held, stops):
            break
        ready = len(held) - begun(held, stops)
        yield from held[:ready]
        del held[:ready]
    yield from held


def begun(tokens: Sequence[Any], stops: Sequence[Sequence[Any]]) -> int:
    """Return how many of the last tokens are the longest beginning of a stop sequence."""
    lengths = range(min(len(tokens), max(map(len, stops), default=1) - 1), 0, -1)
    return next((n for n in lengths if any(tokens[-n:] == s[:n] for s in stops)), 0)


def cut_stop(tokens: list[int], stops: list[list[int]]) -> bool:
    """Remove a stop sequence from the end of `tokens`; True where there was one."""
    for ending in stops:
        if tokens[-len(ending) :] == ending:
            del tokens[-len(ending) :]
            return True
    return False
