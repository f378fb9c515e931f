"""A sweep: what is tried, and that validation alone decides."""

import pytest

from modules.training.sweep import SweepConfig, best, trials
from modules.training.tuning_config import FinetuneConfig


def test_what_is_tried():
    plain = FinetuneConfig(patience=3)
    own = trials(plain, SweepConfig())
    assert [t.optim.lr for t in own.values()] == [6.25e-5 * f for f in (0.25, 0.5, 1, 2, 4)]
    assert own["lr6.25e-05"] == plain  # the run itself is one of them, so it is not trained again
    both = trials(plain, SweepConfig(rates=(1e-4, 1e-3), epochs=(1, 2), patience=5))
    assert list(both) == ["lr0.0001-e1", "lr0.0001-e2", "lr0.001-e1", "lr0.001-e2"]
    assert {(t.epochs, t.patience) for t in both.values()} == {(1, 5), (2, 5)}


@pytest.mark.parametrize(
    ("values", "by_loss", "wanted"),
    [
        ([(0.5, 0.7), (0.8, 0.9), (0.7, 0.1)], False, "b"),
        ([(0.8, 0.9), (0.8, 0.6), (0.8, 0.7)], False, "b"),  # the loss decides between equals
        ([(0.8, 0.6), (0.8, 0.6), (0.1, 0.7)], False, "a"),  # then the order
        ([(0.5, 0.7), (0.8, 0.9), (0.7, 0.1)], True, "c"),
    ],
)
def test_validation_decides(values, by_loss, wanted):
    found = {
        name: {"val_matthews": metric, "val_loss": loss, "step": 3}
        for name, (metric, loss) in zip("abc", values, strict=True)
    }
    assert best(found, by_loss=by_loss) == wanted


def test_nothing_to_choose_from():
    with pytest.raises(ValueError, match="no trial of the sweep came to an end"):
        best({})
