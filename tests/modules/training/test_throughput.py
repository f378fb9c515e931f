"""Steps that are timed are a training's own steps, and add up."""

import json
from pathlib import Path

import pytest
import torch

from modules.files import sha256
from modules.model import checkpoint
from modules.training import loop, meter, throughput
from modules.training.config import PretrainConfig
from modules.training.corpora import HeldOut
from modules.training.loop import Safety
from modules.training.plan import flops_per_token
from modules.training.pretrain import PretrainData, PretrainModule, pretrain
from modules.training.profile import profile_step


@pytest.fixture
def config(tiny):
    return PretrainConfig(
        model=tiny,
        batch_size=4,
        accumulate=3,
        max_steps=1000,
        threads=1,
        precision="32-true",
        accelerator="cpu",
    )


def test_a_step_is_reckoned_from_its_phases(config, tmp_path):
    found = throughput.measure(config, tmp_path, seconds=1)
    assert found == json.loads((tmp_path / "throughput.json").read_text())
    assert list(found["seconds"]) == list(throughput.PHASES)
    assert all(seconds > 0 for seconds in found["seconds"].values())
    assert found["steps"] == 20 and found["rows"] == 4
    step = sum(found["seconds"].values())
    assert found["tokens_per_second"] == pytest.approx(3 * 4 * 32 / step)
    assert 0 < found["mfu"] < 1


def test_the_clock_changes_nothing(config, tmp_path):
    trained = []
    for kind in (throughput.Timed, None):
        torch.manual_seed(0)
        part = config.but(accumulate=1, max_steps=5)
        module = (
            kind(part)
            if kind
            else PretrainModule(checkpoint.build(part.model), part, HeldOut(), total=5)
        )
        data = PretrainData(throughput.RandomRows(part), part, start=0, stop=5)
        safety = Safety(tmp_path / str(kind), "", throughput.silent)
        assert loop.run(module, data, part, safety, val_every=0, tokens=part.tokens_before)
        trained.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    assert torch.equal(*trained)


@pytest.mark.parametrize(
    ("seconds", "rows", "steps"), [(1e-9, 1, 6), (1e9, 4, 20)], ids=["slow", "fast"]
)
def test_long_steps_are_measured_on_fewer_rows(config, seconds, rows, steps):
    part = throughput.excerpt(config, seconds, ceiling=1e12)
    assert (part.batch_size, part.max_steps, part.accumulate) == (rows, steps, 1)


def test_the_ceiling_draws_nothing_from_the_trainings_generator():
    before = torch.get_rng_state()
    assert throughput.ceiling("cpu", torch.float32, seconds=0.01) > 1e8
    assert torch.equal(before, torch.get_rng_state())


def test_a_profile_names_operators_and_writes_a_trace(config, tmp_path):
    trace = tmp_path / "deep/trace.json"
    found = profile_step(config, tmp_path, trace, seconds=0.1)
    names = [row["name"] for row in found["operators"]]
    products = {"aten::mm", "aten::addmm", "mkldnn::_linear_pointwise"}
    assert products & set(names) and len(names) == 15
    assert 0.5 < sum(row["share"] for row in found["operators"]) <= 1
    assert any(
        event["name"] == "backward" for event in json.loads(trace.read_text())["traceEvents"]
    )
    assert found["step_peak_bytes"] > config.model.n_params * 4  # the gradients at least


def test_long_runs_tell_mfu_and_train_the_same(config, corpus, tmp_path, monkeypatch):
    tokens, tokenizer = Path(corpus["tokens"]), Path(corpus["tokenizer"])
    weights, told = [], []
    for name, long in (("short", 1e9), ("long", 0.0)):
        events = []
        monkeypatch.setattr(meter, "LONG", long)
        monkeypatch.setattr(meter, "ceiling", lambda kind, dtype: 1e9)
        pretrain(tokens, tokenizer, tmp_path / name, config.but(max_steps=6), emit=events.append)
        weights.append(sha256(tmp_path / name / "model.safetensors"))
        told.append(events[-1])
    short, long = told
    flops = flops_per_token(config.model, 32).total
    assert "mfu" not in short
    assert long["mfu"] == pytest.approx(long["tokens_per_second"] * flops / 1e9, abs=1e-4)
    assert weights[0] == weights[1]
