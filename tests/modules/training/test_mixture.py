"""Mixing: exact shares, evenly spread, each corpus in its own order and epochs."""

import numpy as np
import pytest

from modules.training.mixture import CYCLE, Mixture, shares


class Numbers:
    """A source whose row n is (name, n)."""

    def __init__(self, name: int, per_epoch: int) -> None:
        self.name, self.per_epoch = name, per_epoch

    def rows(self, samples):
        return np.stack([np.full_like(samples, self.name), samples], axis=1)


@pytest.mark.parametrize("weights", [(1,), (1, 1), (0.7, 0.3), (5, 2, 1), (0.9, 0.05, 0.03, 0.02)])
def test_shares_are_kept_at_every_point(weights):
    mixture = Mixture([Numbers(i, 10) for i in range(len(weights))], weights)
    n = CYCLE + 5000
    rows = mixture.rows(np.arange(n))
    for i, weight in enumerate(weights):
        share = weight / sum(weights)
        seen = np.cumsum(rows[:, 0] == i)
        off = np.abs(seen - share * np.arange(1, n + 1))
        assert off.max() < len(weights) / 2 + 0.5 + n / CYCLE  # the last: shares are n / CYCLE
        assert abs(seen[CYCLE - 1] - share * CYCLE) < 1
        own = rows[rows[:, 0] == i][:, 1]
        assert (own == np.arange(len(own))).all()  # none repeated, none skipped


def test_a_row_depends_on_its_number_only():
    mixture = Mixture([Numbers(0, 7), Numbers(1, 9)], (3, 1))
    whole = mixture.rows(np.arange(CYCLE + 100))
    for first in (0, 5, CYCLE - 3, CYCLE + 50):
        assert (mixture.rows(np.arange(first, first + 8)) == whole[first : first + 8]).all()
    assert mixture.per_epoch == 16


@pytest.mark.parametrize("weights", [(1, 0), (1, -1), (1, 1e-9)])
def test_weights_without_a_row_are_refused(weights):
    with pytest.raises(ValueError, match="each must give a row"):
        shares(np.array(weights, dtype=float))
