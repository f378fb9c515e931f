"""Calibration: hand-made cases, and scikit-learn's own confusion, Brier score and log loss."""

import numpy as np
import pytest
from sklearn.metrics import (
    brier_score_loss,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
)

from modules.evaluation import calibration as c


def two(*confidences):
    """Return predictions of class 1 with these probabilities."""
    return c.stack([[1 - p, p] for p in confidences])


def drawn(n=500, k=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(k, 0.5), n), rng.integers(0, k, n)


@pytest.mark.parametrize(
    ("confidences", "labels", "error"),
    [
        ([0.75] * 4, [1, 1, 1, 0], 0.0),  # three of four right, at 75 %
        ([1.0] * 4, [1, 1, 0, 0], 0.5),  # certain, and right half the time
        ([0.6, 0.6, 0.9, 0.9], [1, 1, 1, 0], 0.4),  # gaps of 0.4 below and 0.4 above
        ([0.8, 0.8, 0.8, 0.8, 0.55], [1, 1, 1, 1, 0], (4 * 0.2 + 0.55) / 5),
    ],
    ids=["calibrated", "too sure", "two bins", "weighed"],
)
def test_expected_error_by_hand(confidences, labels, error):
    for binning in c.BINNINGS:
        found = c.reliability(two(*confidences), np.array(labels), binning)
        assert c.expected_error(found) == pytest.approx(error)
        assert sum(b["n"] for b in found) == len(labels)


def test_bins_of_equal_width_end_where_they_say_and_those_of_equal_mass_hold_the_same():
    p = two(0.5625, 0.625, 0.626, 0.75, 0.95)
    labels = np.array([1, 0, 1, 1, 1])
    width = c.reliability(p, labels, "equal_width", n_bins=8)
    assert [(b["low"], b["high"], b["n"]) for b in width] == [
        (0.5, 0.625, 2),  # the upper end belongs to the bin
        (0.625, 0.75, 2),
        (0.875, 1.0, 1),
    ]
    mass = c.reliability(*drawn(), "equal_mass", n_bins=10)
    assert [b["n"] for b in mass] == [50] * 10


def test_the_order_of_examples_does_not_count():
    p = two(*[0.75] * 40, *[0.9] * 20)
    labels = np.array([1] * 30 + [0] * 10 + [1] * 18 + [0] * 2)
    order = np.random.default_rng(1).permutation(len(labels))
    for binning in c.BINNINGS:
        assert c.expected_error(c.reliability(p, labels, binning)) == pytest.approx(0, abs=1e-12)
        pairs = zip(
            c.reliability(p[order], labels[order], binning),
            c.reliability(p, labels, binning),
            strict=True,
        )
        assert all(mine == pytest.approx(theirs) for mine, theirs in pairs)


@pytest.mark.parametrize("k", [2, 3, 7])
def test_like_scikit_learn(k):
    p, labels = drawn(k=k, seed=k)
    guesses = p.argmax(1)
    matrix = c.confusion(guesses, labels, k)
    assert (matrix == confusion_matrix(labels, guesses, labels=range(k))).all()
    theirs = precision_recall_fscore_support(labels, guesses, labels=range(k), zero_division=0)
    for mine, *values in zip(c.by_class(matrix), *theirs, strict=True):
        assert list(mine.values()) == pytest.approx(values)
    assert c.log_loss(p, labels) == pytest.approx(log_loss(labels, p, labels=range(k)))
    expected = brier_score_loss(labels, p, labels=list(range(k)), scale_by_half=False)
    assert c.brier(p, labels) == pytest.approx(expected)


def test_a_class_that_is_never_taken_or_never_there_counts_as_zero():
    rows = c.by_class(c.confusion(np.array([0, 0, 1]), np.array([0, 2, 0]), 3))
    assert [row["precision"] for row in rows] == [0.5, 0.0, 0.0]
    assert [row["support"] for row in rows] == [2, 0, 1]


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(true):
    """Labels drawn from p, predictions p sharpened or flattened: the fit undoes that."""
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.ones(3), 20_000)
    labels = (p.cumsum(1) > rng.random(len(p))[:, None]).argmax(1)
    given = c.heat(p, 1 / true)
    found = c.fit_temperature(given, labels)
    assert found == pytest.approx(true, rel=0.05)
    losses = [c.log_loss(c.heat(given, found * f), labels) for f in (0.97, 1.0, 1.03)]
    assert losses[1] == min(losses)
    assert (c.heat(given, found).argmax(1) == given.argmax(1)).all()


def test_all_right_or_all_wrong_ends_at_the_bounds():
    assert c.fit_temperature(two(0.9, 0.8), np.array([1, 1])) == pytest.approx(c.COLDEST)
    assert c.fit_temperature(two(0.9, 0.8), np.array([0, 0])) == pytest.approx(c.HOTTEST)


def test_examples_with_fewer_answers():
    p = c.stack([[0.5, 0.25, 0.25], [0.2, 0.8]])
    assert p[1].tolist() == [0.2, 0.8, 0.0]
    assert c.heat(p, 10.0)[1, 2] == 0.0
    assert c.brier(p, np.array([0, 0])) == pytest.approx((0.375 + 2 * 0.64) / 2)
    with pytest.raises(ValueError, match="no predictions"):
        c.stack([])


def test_the_most_confident_mistakes_come_first():
    p = two(0.9, 0.6, 0.99, 0.8)
    assert c.worst(p, np.array([0, 0, 1, 0]), 2) == [0, 3]
