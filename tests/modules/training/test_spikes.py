"""Loss spikes: found by median and MAD; a rollback is the same run wherever it was stopped."""

import json
from itertools import chain
from pathlib import Path

import pytest
import torch

from modules.training import spikes
from modules.training.config import OptimConfig, PretrainConfig, SpikeConfig
from modules.training.pretrain import PretrainData, PretrainModule, pretrain


def test_the_limit_is_median_and_spread():
    config = SpikeConfig(mads=3, window=5)
    assert spikes.limit([5, 1, 2, 3, 4], config) == 3 + 3 * 1
    assert spikes.limit([1, 2, 3, 4], config) is None  # too few
    assert spikes.limit([2, 2, 2, 2, 9], config) is None  # no spread
    assert spikes.limit([5, 1, 2, 3, 4], config.but(mads=0)) is None


def test_ranges_join_and_positions_pass_over_them():
    ranges = spikes.leave_out([], 5, 8)
    assert ranges == [(5, 8)]
    ranges = spikes.leave_out(ranges, 20, 22)
    assert [spikes.position(n, ranges) for n in range(3, 19)] == [3, 4, *range(8, 20), 22, 23]
    assert spikes.leave_out(ranges, 7, 20) == [(5, 22)]
    assert spikes.leave_out(ranges, 8, 10) == [(5, 10), (20, 22)]


BACK = SpikeConfig(mads=30, window=6, rollbacks=2, back=4, ahead=1)
BAD = {30: 4.0, 31: 4.0, 44: 5.0}  # micro-batches that the loss jumps on


@pytest.fixture
def bad_batches(monkeypatch):
    """Mark some micro-batches; the loss of a marked one is several times as high."""
    real_rows, real_loss = PretrainData.micro_batch, PretrainModule.micro_loss
    read = []

    def micro_batch(self, number):
        rows = real_rows(self, number)
        return torch.cat([rows, torch.full_like(rows[:1], number)])  # its number goes along

    def micro_loss(self, batch):
        number = int(batch[-1, 0])
        read.append((self.done, number))
        return real_loss(self, batch[:-1]) * BAD.get(number, 1.0)

    monkeypatch.setattr(PretrainData, "micro_batch", micro_batch)
    monkeypatch.setattr(PretrainModule, "micro_loss", micro_loss)
    monkeypatch.setattr(PretrainModule, "plain_loss", False)  # kernels take no scaled loss
    return read


def run(corpus, tiny, out: Path, *, stop: tuple[int, ...] = (), **changes) -> dict:
    """Train 30 steps of two micro-batches, stopping after some steps; return training.json."""
    config = PretrainConfig(
        **{
            "model": tiny,
            "optim": OptimConfig(lr=1e-3, warmup_steps=2),
            "spikes": BACK,
            "batch_size": 4,
            "accumulate": 2,
            "max_steps": 30,
            "val_every": 0,
            "val_windows": 4,
            "checkpoint_every": 5,
            "log_every": 1,
            "threads": 1,
            "precision": "32-true",
            "accelerator": "cpu",
            **changes,
        }
    )
    inputs, asked = (Path(corpus["tokens"]), Path(corpus["tokenizer"])), iter(range(1, 1000))
    for _ in range(20):
        if pretrain(*inputs, out, config, stopping=lambda: next(asked) in stop):
            return json.loads((out / "training.json").read_text())
    raise AssertionError("never done")


def test_spikes_are_recorded(corpus, tiny, tmp_path, bad_batches):
    facts = run(corpus, tiny, tmp_path, spikes=BACK.but(rollbacks=0))
    assert [spike["step"] for spike in facts["spikes"]] == [16, 23]
    assert all(spike["loss"] > spike["limit"] > 0 for spike in facts["spikes"])
    assert facts["left_out"] == [] and not any("back_to" in spike for spike in facts["spikes"])


def test_going_back_before_spikes(corpus, tiny, tmp_path, bad_batches, digests):
    facts = run(corpus, tiny, tmp_path / "whole")
    # step 16 reads micro-batches 30 and 31: back to step 11; 22 to 33 are left out. The spike of 44
    # is then in step 17, and what lies between is left out too
    first, second = facts["spikes"]
    assert (first["step"], first["back_to"]) == (16, 11)
    assert (second["step"], second["back_to"]) == (17, 12)
    assert facts["left_out"] == [[22, 34], [36, 48]]
    reads = [[number for step, number in bad_batches if step == s][-2:] for s in range(30)]
    assert list(chain(*reads)) == [*range(22), 34, 35, *range(48, 84)]  # the way that was kept

    # wherever it is stopped, and wherever its checkpoints lie, it is the same run
    for name, changes in {
        "stopped": {"stop": (7, 14, 16, 21, 23, 30, 31)},
        "sparse": {"checkpoint_every": 100},
        "workers": {"workers": 2, "stop": (18,)},
    }.items():
        other = run(corpus, tiny, tmp_path / name, **changes)
        weights = [digests(tmp_path / n)["model.safetensors"] for n in ("whole", name)]
        assert weights[0] == weights[1], name
        assert other["spikes"] == facts["spikes"] and other["left_out"] == facts["left_out"]


def test_checkpoints_must_reach_back(tiny):
    with pytest.raises(ValueError, match="reach back 4 steps only"):
        PretrainConfig(
            model=tiny, max_steps=9, checkpoint_every=2, spikes=SpikeConfig(rollbacks=1, back=5)
        )
