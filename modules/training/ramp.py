"""Numbers that change at given steps, as pure functions of the step; free of torch.

A ramp is ((until, value), ...) with rising `until`: the value holds for the steps before `until`;
behind the last one a final value holds. ((100, 1), (300, 2)) with 4 behind it is 1 for steps 0..99,
2 for 100..299, 4 from 300 on.
"""

Ramp = tuple[tuple[int, int], ...]


def check(ramp: Ramp, name: str) -> None:
    """Refuse a ramp whose steps do not rise, or whose values are not positive.

    Raises:
        ValueError: naming the field.
    """
    steps = [0, *(until for until, _ in ramp)]
    if steps != sorted(set(steps)) or any(value < 1 for _, value in ramp):
        raise ValueError(f"{name} {ramp}: give (until step, value) with rising steps, values >= 1")


def value_at(ramp: Ramp, last: int, step: int) -> int:
    """Return the value that holds at a step."""
    return next((value for until, value in ramp if step < until), last)


def sum_before(ramp: Ramp, last: int, step: int) -> int:
    """Return the sum of the values of all steps before this one, without counting them up."""
    total, start = 0, 0
    for until, value in ramp:
        total += value * (min(until, step) - start)
        start = min(until, step)
    return total + last * (step - start)


def steps_for(ramp: Ramp, last: int, total: float, size: int) -> int:
    """Return after how many steps values, each `size` large, make up `total`, to the next step."""
    start = 0
    for until, value in ramp:
        room = size * value * (until - start)
        if total < room:
            return start + round(total / (size * value))
        total, start = total - room, until
    return start + round(total / (size * last))
