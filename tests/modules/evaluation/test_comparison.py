"""Paired comparison: against scipy's own tests on the same numbers, and on cases one can count."""

import numpy as np
import pytest
from scipy import stats

from modules.evaluation.comparison import (
    Difference,
    difference,
    interval_of,
    outcomes,
    resampled,
    signed_rank,
)
from modules.evaluation.metrics import accuracy, matthews, spearman


def runs(right: np.ndarray) -> list[list[dict]]:
    """Predictions (seeds, items) that are right or wrong as told; all labels are 1."""
    return [
        [{"id": str(i), "label": 1, "prediction": int(x)} for i, x in enumerate(run)]
        for run in right
    ]


def test_one_seed_agrees_with_the_binomial_standard_error():
    right = np.random.default_rng(0).random((1, 400)) < 0.7
    draws = resampled(accuracy, outcomes(runs(right)))
    p = right.mean()
    assert draws.mean() == pytest.approx(p, abs=0.005)
    assert draws.std() == pytest.approx(np.sqrt(p * (1 - p) / 400), rel=0.1)
    low, high = interval_of(draws)
    assert low < p < high


def test_paired_p_values_are_near_those_of_the_paired_t_test():
    random = np.random.default_rng(1)
    base = random.random(500) < 0.6
    better = base | (random.random(500) < 0.07)
    worse = base & (random.random(500) > 0.01)
    for other, sign in ((better, 1), (worse, -1)):
        a, b = (resampled(accuracy, outcomes(runs(x[None])), seed=3) for x in (other, base))
        found = difference(a, b, float(other.mean() - base.mean()))
        assert found.mean * sign > 0 and found.low <= found.mean <= found.high
        expected = stats.ttest_rel(other.astype(float), base.astype(float)).pvalue
        assert found.p == pytest.approx(expected, abs=0.03)


def test_pairing_sees_what_unpaired_intervals_hide():
    base = np.random.default_rng(2).random(300) < 0.5
    better = base.copy()
    better[np.flatnonzero(~base)[:8]] = True  # 8 items gained, none lost
    a, b = (outcomes(runs(x[None])) for x in (better, base))
    found = difference(resampled(accuracy, a, seed=1), resampled(accuracy, b, seed=1), 8 / 300)
    alone = difference(resampled(accuracy, a, seed=1), resampled(accuracy, b, seed=2), 8 / 300)
    assert found.significant and not alone.significant


def test_equal_runs_do_not_differ():
    draws = resampled(accuracy, outcomes(runs(np.eye(20)[:2])))
    assert difference(draws, draws, 0.0) == Difference(0.0, 0.0, 0.0, 1.0)
    assert signed_rank([0.0, 0.0]) == 1.0


def test_seeds_that_disagree_widen_the_interval():
    right = np.random.default_rng(4).random((1, 200)) < 0.6
    same = np.repeat(right, 3, 0)
    spread = np.stack([right[0], np.ones(200, bool), np.zeros(200, bool)])
    widths = [np.ptp(interval_of(resampled(accuracy, outcomes(runs(x))))) for x in (same, spread)]
    assert widths[1] > 3 * widths[0]


@pytest.mark.parametrize("metric", [matthews, spearman])
def test_other_metrics_are_resampled_too(metric):
    random = np.random.default_rng(5)
    labels = random.integers(0, 2, 80)
    guesses = np.where(random.random(80) < 0.8, labels, 1 - labels)
    rows = [
        {"id": i, "label": int(a), "prediction": int(b)}
        for i, (a, b) in enumerate(zip(labels, guesses, strict=True))
    ]
    given = outcomes([rows])
    low, high = interval_of(resampled(metric, given, samples=300))
    assert low < given.values(metric)[0] < high


def test_signed_rank_is_scipys():
    differences = [0.02, 0.03, -0.01, 0.05, 0.04, 0.011]
    assert signed_rank(differences) == stats.wilcoxon(differences).pvalue


def test_runs_about_other_items_are_refused():
    a, b = runs(np.ones((2, 3)))
    b[1]["id"] = "other"
    with pytest.raises(ValueError, match="different items"):
        outcomes([a, b])
