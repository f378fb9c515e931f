"""Checkpoints written behind the steps: a copy, in order, one at a time, and no error is lost."""

import threading

import pytest
import torch

from modules.training import state
from modules.training.state import State
from modules.training.writer import Writer


def make(step: int) -> State:
    return State({"weights": {"a": torch.full((3,), float(step))}}, {"step": step, "curve": [step]})


def test_what_is_written_is_the_state_of_the_step(tmp_path, monkeypatch):
    """Training goes on changing tensors and lists while the write waits."""
    go, real = threading.Event(), state.save
    monkeypatch.setattr(state, "save", lambda *a, **k: go.wait() and real(*a, **k))
    with Writer(tmp_path, keep=3, background=True) as writer:
        value = make(1)
        writer.save(1, value)
        value.tensors["weights"]["a"].fill_(7)
        value.values["curve"].append(7)
        assert not tmp_path.joinpath("step-00000001").exists()
        writer.check()  # does not wait
        go.set()
    found = state.load_newest(tmp_path)
    assert found.values == {"step": 1, "curve": [1]} and found.tensors["weights"]["a"].max() == 1


@pytest.mark.parametrize("background", [True, False])
def test_the_newest_and_the_spared_stay(background, tmp_path):
    with Writer(tmp_path, keep=2, background=background) as writer:
        for step in range(1, 7):
            writer.save(step, make(step), spare={2})
    assert [int(p.name[5:]) for p in sorted(tmp_path.iterdir())] == [2, 5, 6]


def full(*args, **kwargs):
    raise OSError(28, "No space left on device")


def test_an_error_comes_up_at_the_next_boundary(tmp_path, monkeypatch):
    monkeypatch.setattr(state, "_fsync", full)
    with Writer(tmp_path, keep=2, background=True) as writer:
        writer.save(1, make(1))
        writer._pool.submit(int).result()  # the write has ended
        with pytest.raises(OSError, match="checkpoint of step 1 not finished"):
            writer.check()
        writer.check()  # once
        writer.save(2, make(2))
        with pytest.raises(OSError, match="step 2"):
            writer.save(3, make(3))
    with (
        pytest.raises(OSError, match="step 4"),
        Writer(tmp_path, keep=2, background=True) as writer,
    ):
        writer.save(4, make(4))


def test_the_first_error_is_not_hidden_by_the_writers(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(state, "_fsync", full)
    with (
        pytest.raises(ArithmeticError, match="first"),
        Writer(tmp_path, keep=2, background=True) as writer,
    ):
        writer.save(1, make(1))
        raise ArithmeticError("first")
    assert "checkpoint of step 1 not finished" in caplog.text
