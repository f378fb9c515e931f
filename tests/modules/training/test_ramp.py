"""Ramps: their sums in closed form are the sums counted up."""

import pytest

from modules.training.config import PretrainConfig
from modules.training.ramp import steps_for, sum_before, value_at

RAMP = ((100, 1), (300, 2), (301, 7))


@pytest.mark.parametrize("ramp", [(), RAMP, ((5, 3),)])
def test_the_closed_form_is_the_sum(ramp):
    total = 0
    for step in range(500):
        assert sum_before(ramp, 4, step) == total
        total += value_at(ramp, 4, step)


@pytest.mark.parametrize("ramp", [(), RAMP])
def test_steps_for_a_total_undo_the_sum(ramp):
    for step in (0, 1, 99, 100, 101, 299, 300, 301, 302, 1000):
        assert steps_for(ramp, 4, sum_before(ramp, 4, step) * 8, 8) == step


@pytest.mark.parametrize("ramp", [((0, 1),), ((5, 1), (5, 2)), ((5, 1), (3, 2)), ((5, 0),)])
def test_ramps_that_make_no_sense_are_refused(ramp, tiny):
    with pytest.raises(ValueError, match="batch_ramp"):
        PretrainConfig(model=tiny, max_steps=10, batch_ramp=ramp)


def test_short_contexts_divide_the_long_one(tiny):
    with pytest.raises(ValueError, match="context_ramp: 12 does not divide the context 32"):
        PretrainConfig(model=tiny, max_steps=10, context_ramp=((5, 8), (7, 12)))


def test_tokens_and_steps_know_the_ramp(tiny):
    config = PretrainConfig(
        model=tiny, epochs=2, batch_size=4, accumulate=4, batch_ramp=((10, 1), (20, 2))
    )
    assert [config.micro_batches(step) for step in (0, 9, 10, 19, 20)] == [1, 1, 2, 2, 4]
    assert config.tokens_before(21) == (10 + 20 + 4) * 4 * 32
    assert config.total_steps(100) == 25  # 200 windows: 10 * 4 + 10 * 8, and 80 in steps of 16
