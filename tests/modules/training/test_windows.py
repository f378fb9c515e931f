"""Rows of tokens: the same as before, from any start, across shards, and fast enough."""

import hashlib
import pickle
import time
from itertools import islice

import numpy as np
import pytest
import torch

from modules.corpus.token_file import read_split
from modules.training.config import PretrainConfig
from modules.training.pretrain import PretrainData
from modules.training.windows import AHEAD, Ahead, Stream, held_out

IDS = np.arange(5000) * 7919 % 997


@pytest.fixture
def tokens(write_stream, tmp_path):
    """5,000 tokens in three shards."""
    return read_split(write_stream(tmp_path / "tokens", IDS, eot=996, cuts=(1700, 3300)), "train")


def config_of(tiny, **changes) -> PretrainConfig:
    return PretrainConfig(
        **{"model": tiny.but(vocab_size=997), "batch_size": 8, "max_steps": 100, "seed": 5}
        | changes
    )


def test_the_order_is_the_one_of_all_earlier_runs(tokens, tiny):
    # recorded before rows were read in blocks (commit ece6ffa)
    data = PretrainData(Stream(tokens, 32, 5), config_of(tiny, accumulate=3), start=0, stop=100)
    digest = hashlib.sha256()
    for step in range(40):
        for batch in data.step(step):
            digest.update(batch.numpy().tobytes())
    assert digest.hexdigest() == "fc835b5faedd60a300cdbec21995201dca0b6e0350896f602f90921e884b13d0"


def test_rows_are_the_stream_across_shards(tokens):
    starts = np.array([0, 1690, 1699, 1700, 3299, 4967, 12])
    rows = tokens.rows(starts, 33)
    assert rows.dtype == np.int64
    for start, row in zip(starts, rows, strict=True):
        assert (row == IDS[start : start + 33]).all()
    assert (tokens.rows(np.array([10]), 4500) == IDS[10:4510]).all()  # longer than a shard
    assert tokens.rows(np.empty(0, dtype=np.int64), 33).shape == (0, 33)


@pytest.mark.parametrize("start", [-1, 4968, 5000, 9999])
def test_rows_outside_the_split_are_refused(tokens, start):
    with pytest.raises(IndexError, match=r"of 5000 in train"):
        tokens.rows(np.array([0, start]), 33)


def test_positions_of_an_id_count_all_shards(tokens):
    assert (tokens.positions_of(5) == np.flatnonzero(IDS == 5)).all()


def test_looking_ahead_changes_nothing():
    calls = []

    def function(samples):
        calls.append(len(samples))
        return samples**2 % 101

    ahead = Ahead(function)
    for first in (0, 8, AHEAD - 4, AHEAD + 40, 3, 10 * AHEAD):
        samples = np.arange(first, first + 8)
        assert (ahead(samples) == samples**2 % 101).all()
    assert calls == [AHEAD] * 4  # 0, across its end, back to 3, far away


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_rows(workers, tokens, tiny):
    def rows(n):
        config = config_of(tiny, workers=n, accumulate=2)
        data = PretrainData(Stream(tokens, 32, 5), config, start=3, stop=20)
        return np.array([[b.numpy() for b in step] for step in data.train_dataloader()])

    assert (rows(workers) == rows(0)).all()


def test_short_contexts_and_small_steps_read_the_same_tokens_in_the_same_order(tokens, tiny):
    ramps = {"batch_ramp": ((4, 1), (9, 2)), "context_ramp": ((5, 8), (12, 16))}
    plain = PretrainData(Stream(tokens, 32, 5), config_of(tiny, accumulate=4), start=0, stop=100)
    config = config_of(tiny, accumulate=4, **ramps)
    data = PretrainData(Stream(tokens, 32, 5), config, start=0, stop=100)
    inputs, targets, wanted = [], [], []
    for step in range(20):
        batches = data.step(step)
        assert len(batches) == (1 if step < 4 else 2 if step < 9 else 4)
        context = 8 if step < 5 else 16 if step < 12 else 32
        assert {b.shape for b in batches} == {(8 * 32 // context, context + 1)}
        inputs += [b[:, :-1].flatten() for b in batches]
        targets += [b[:, 1:].flatten() for b in batches]
    n = config.micro_batches_before(20)
    wanted = [plain.micro_batch(number) for number in range(n)]
    assert (torch.cat(inputs) == torch.cat([w[:, :-1].flatten() for w in wanted])).all()
    assert (torch.cat(targets) == torch.cat([w[:, 1:].flatten() for w in wanted])).all()
    assert sum(len(t) for t in targets) == config.tokens_before(20)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_out_the_rows_of_one_process(ranks, tokens, tiny, monkeypatch):
    data = PretrainData(Stream(tokens, 32, 5), config_of(tiny), start=0, stop=100)
    for number in (0, 1, 17, 400):
        whole, parts = data.micro_batch(number), []
        for rank in range(ranks):
            with monkeypatch.context() as patch:
                patch.setattr("modules.training.lm.rank_of", lambda _, at=(rank, ranks): at)
                parts.append(data.micro_batch(number))
        assert (torch.cat(parts) == whole).all()


def test_rows_go_to_another_process(tokens):
    stream = Stream(tokens, 32, 5)
    samples = np.arange(300)
    assert (pickle.loads(pickle.dumps(stream)).rows(samples) == stream.rows(samples)).all()


def test_held_out_windows_are_spread_over_the_split(tokens):
    windows = held_out(tokens, 32, 4)
    assert windows.shape == (4, 33) and windows[0, 0] == IDS[0]
    assert windows[-1, 0] == IDS[(4999 // 32 - 1) * 32]
    assert len(held_out(tokens, 32, 10**6)) == 4999 // 32
    assert held_out(tokens, 5000, 4) is None


def test_the_loader_costs_little(write_stream, tmp_path, tiny):
    """0.5 % of a 100 ms step is 0.5 ms; 26 us were measured, so a busy machine has room."""
    root = write_stream(tmp_path / "big", np.arange(10**6) % 8192, eot=8191)
    config = config_of(tiny.but(n_positions=256, vocab_size=8192), max_steps=500)
    rows = Stream(read_split(root, "train"), 256, 1)
    batches = iter(PretrainData(rows, config, start=0, stop=500).train_dataloader())
    next(batches)
    start = time.process_time()
    n = len(list(islice(batches, 400)))
    assert (time.process_time() - start) / n < 0.5e-3
