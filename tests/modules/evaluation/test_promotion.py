"""The guard of promotions: intervals against textbook ones, verdicts and policies by table."""

import numpy as np
import pytest
from scipy.stats import norm

from modules.evaluation.comparison import Outcomes
from modules.evaluation.metrics import bits_per_byte, mean
from modules.evaluation.promotion import GuardConfig, Measured, differences, judge

N = 400


def answered(values: np.ndarray, *, low: float = -1.0, high: float = 1.0) -> Measured:
    """A mean over items, with the items."""
    ids = tuple(map(str, range(len(values))))
    items = Outcomes(ids, (tuple(values.tolist()),), (1.0,) * len(values))
    return Measured("t", float(values.mean()), low, high, mean, items)


def told(value: float, half: float = 0.02, task: str = "t") -> Measured:
    """A score with its interval only."""
    return Measured(task, value, value - half, value + half)


def test_paired_intervals_are_those_of_the_differences() -> None:
    random = np.random.default_rng(1)
    hard = random.normal(0, 1, N)  # what both find hard
    new, old = hard + random.normal(0.05, 0.1, N), hard + random.normal(0, 0.1, N)
    draws = differences("x", answered(new), answered(old), GuardConfig(samples=20_000))
    error = (new - old).std(ddof=1) / N**0.5
    want = (new - old).mean() + norm.ppf([0.025, 0.975]) * error
    assert np.quantile(draws, [0.025, 0.975]) == pytest.approx(want, abs=0.05 * error)
    # unpaired, the same 20 standard errors would be lost in what both find hard
    assert error < 0.2 * hard.std() / N**0.5


def test_of_ratios_the_sums_are_resampled() -> None:
    random = np.random.default_rng(2)
    sizes = random.integers(10, 1000, 50)
    losses = [sizes * random.uniform(1, 2, 50) for _ in range(2)]
    sides = []
    for nll in losses:
        ids = tuple(map(str, range(50)))
        items = Outcomes(ids, (tuple(nll.tolist()),), tuple(sizes.tolist()))
        value = float(nll.sum() / sizes.sum() / np.log(2))
        sides.append(Measured("t", value, None, None, bits_per_byte, items))
    draws = differences("x", *sides, GuardConfig(samples=20_000))
    picks = np.random.default_rng(3).integers(0, 50, (20_000, 50))
    rates = [nll[picks].sum(1) / sizes[picks].sum(1) / np.log(2) for nll in losses]
    want = np.quantile(rates[0] - rates[1], [0.025, 0.975])
    close = 0.02 * (want[1] - want[0])
    assert np.quantile(draws, [0.025, 0.975]) == pytest.approx(want, abs=close)


def test_without_items_the_intervals_are_added_as_independent() -> None:
    draws = differences("x", told(1.0, 0.03), told(1.1, 0.04), GuardConfig(samples=50_000))
    assert np.quantile(draws, [0.025, 0.975]) == pytest.approx([-0.15, -0.05], abs=0.002)
    other = answered(np.ones(3))
    assert len(differences("x", answered(np.ones(4)), other, GuardConfig(samples=100))) == 100
    with pytest.raises(ValueError, match="neither answers nor an interval"):
        differences("x", Measured("t", 1.0, None, None), told(1.0), GuardConfig())


A, B = "a test", "b test"
CASES = [  # new and old by set, config, promoted, why
    ({A: told(1.0)}, {A: told(1.2)}, {}, True, "1.0000 < 1.2000 bits over 1 sets"),
    ({A: told(1.2)}, {A: told(1.0)}, {}, False, "1.2000 > 1.0000"),
    ({A: told(1.0)}, {A: told(1.0)}, {}, False, "1.0000 = 1.0000"),
    ({A: told(1.0)}, {B: told(1.0)}, {}, False, "no set was scored for both"),
    ({}, {A: told(1.0)}, {}, False, "no set was scored for both"),
    (
        {A: told(1.0), B: told(1.1)},
        {A: told(1.4), B: told(1.0)},
        {},
        False,
        r"1.0500 < 1.2000 .*but worse by more than chance on t$",
    ),
    (
        {A: told(1.0), B: told(1.1)},
        {A: told(1.4), B: told(1.0)},
        {"policy": "mean"},
        True,
        "1.0500 < 1.2000",
    ),
    ({A: told(1.0), B: told(1.1, 0.2)}, {A: told(1.4), B: told(1.0, 0.2)}, {}, True, "2 sets"),
    ({A: told(1.0)}, {A: told(1.01)}, {}, True, "1.0000 < 1.0100"),
    ({A: told(1.0)}, {A: told(1.01)}, {"policy": "significant"}, False, "which chance explains"),
    ({A: told(1.0)}, {A: told(1.1)}, {"policy": "significant"}, True, "1.0000 < 1.1000"),
    (
        {A: told(1.0, task="a"), B: told(1.1, task="b")},
        {A: told(1.4), B: told(1.0)},
        {"sets": ("a",)},
        True,
        "1 sets",
    ),
    (
        {A: told(1.0, task="a")},
        {A: told(1.4)},
        {"sets": ("a", "c")},
        False,
        "not scored for both with the same protocol: c",
    ),
]


@pytest.mark.parametrize(("new", "old", "config", "promoted", "why"), CASES)
def test_judgements(new, old, config, promoted: bool, why: str) -> None:
    import re

    found = judge(new, old, GuardConfig(**config), lower_is_better=True, unit="bits")
    assert found.promote is promoted
    assert re.search(why, found.why), found.why


def test_verdicts_know_which_way_is_better() -> None:
    new, old = {A: told(0.9)}, {A: told(0.5)}
    (up,) = judge(new, old, GuardConfig(), lower_is_better=False, unit="").sets
    (down,) = judge(new, old, GuardConfig(), lower_is_better=True, unit="").sets
    assert (up.verdict, down.verdict) == ("better", "worse")
    assert up.value == pytest.approx(0.4) and up.low < 0.4 < up.high and up.items == 0


def test_twins_are_no_better() -> None:
    """The same answers differ by nothing, and by chance too: no set can be called worse."""
    twin = {A: answered(np.linspace(0, 1, 30))}
    found = judge(twin, twin, GuardConfig(), lower_is_better=True, unit="")
    assert not found.promote and found.sets[0].verdict == "no difference"
    assert (found.sets[0].low, found.sets[0].high) == (0, 0)
    assert found.sets[0].items == 30
