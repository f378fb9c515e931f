"""Data order: each window once per epoch, and the same from any start, worker count or rank."""

import numpy as np
import pytest

from modules.training.order import Steps, Windows, check_windows, loader, mix, permute


@pytest.mark.parametrize("n", [1, 2, 3, 5, 64, 65, 1000, 4097])
def test_permutation_is_one(n):
    for key in range(3):
        assert sorted(permute(np.arange(n), n, key)) == list(range(n))


def test_permutation_is_computed_index_by_index():
    whole = permute(np.arange(1000), 1000, 7)
    some = np.array([3, 999, 500, 3])
    assert (permute(some, 1000, 7) == whole[some]).all()


def test_permutations_look_random():
    n, tries = 50, 400
    first = [int(permute(np.array([0]), n, mix(1, key))[0]) for key in range(tries)]
    counts = np.bincount(first, minlength=n)
    chi2 = ((counts - tries / n) ** 2 / (tries / n)).sum()  # 49 degrees of freedom
    assert chi2 < 85  # P < 0.001
    order = permute(np.arange(10_000), 10_000, 5)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.04


def test_mix_is_splitmix64():
    # the first output of splitmix64 seeded with 0 (Vigna's reference implementation)
    assert mix(0) == 0xE220A8397B1DCDAF


@pytest.mark.parametrize(("tokens", "context"), [(1000, 16), (997, 16), (40, 16), (10_000, 7)])
def test_no_token_is_predicted_twice_in_an_epoch(tokens, context):
    windows = Windows(tokens, context, seed=3)
    n = windows.per_epoch
    assert n >= tokens / context - 2
    alignments = set()
    for epoch in range(5):
        starts = windows.starts(np.arange(epoch * n, (epoch + 1) * n))
        assert starts.min() >= 0 and starts.max() + context + 1 <= tokens
        assert (np.diff(np.sort(starts)) == context).all()
        alignments.add(int(starts.min()) % context)
    assert len(alignments) > 1


def test_starts_depend_on_the_sample_number_only():
    windows = Windows(5000, 16, seed=1)
    whole = windows.starts(np.arange(1000))
    for first in (0, 1, 311, 312, 999):
        assert (windows.starts(np.arange(first, 1000)) == whole[first:]).all()
    assert (whole != Windows(5000, 16, seed=2).starts(np.arange(1000))).any()


def test_a_corpus_without_a_window_is_refused():
    check_windows(Windows(32, 16, seed=0))
    with pytest.raises(ValueError, match="31 tokens; a context of 16 needs at least 32"):
        check_windows(Windows(31, 16, seed=0))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_any_number_of_workers_gives_the_same_steps(workers):
    assert list(loader(Steps(lambda step: step, start=5, stop=17), workers=workers)) == list(
        range(5, 17)
    )
