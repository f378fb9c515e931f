"""Schedules by known values, parameter groups, optimizers against written-out arithmetic."""

import math

import pytest
import torch
from torch import nn

from modules.kernels import products
from modules.model.gpt import GPT
from modules.training.config import GPT1_OPTIM, OptimConfig
from modules.training.optim import (
    build_optimizers,
    learning_rate,
    optimizer_tensors,
    restore_optimizers,
    set_learning_rate,
)
from modules.training.tuning_config import GPT1_FINETUNE_OPTIM

NANOGPT = OptimConfig(lr=6e-4, warmup_steps=2000)


def nanogpt_lr(it, warmup=2000, total=600_000, high=6e-4, low=6e-5):
    """karpathy/nanoGPT:train.py, get_lr, as written there."""
    if it < warmup:
        return high * (it + 1) / (warmup + 1)
    decay_ratio = (it - warmup) / (total - warmup)
    return low + 0.5 * (1.0 + math.cos(math.pi * decay_ratio)) * (high - low)


@pytest.mark.parametrize("step", [0, 1, 1999, 2000, 2001, 300_000, 599_999])
def test_cosine_is_nanogpts(step):
    assert learning_rate(step, 600_000, NANOGPT) == pytest.approx(nanogpt_lr(step), rel=1e-12)


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 0.0), (1, 0.5 * (1 - 1 / 1000)), (2, 1 - 2 / 1000), (500, 0.5), (999, 0.001)],
)
def test_linear_is_the_gpt1_releases(step, factor):
    # opt.py, warmup_linear(x = t / T, warmup = 0.002), T = 1000; t from 0: the first rate is 0
    got = learning_rate(step, 1000, GPT1_FINETUNE_OPTIM)
    assert got == pytest.approx(6.25e-5 * factor, rel=1e-9)


def test_gpt1_pretraining_ends_at_zero():
    assert learning_rate(2000, 10_000, GPT1_OPTIM) == 2.5e-4
    assert learning_rate(10_000, 10_000, GPT1_OPTIM) == pytest.approx(0)


WSD = OptimConfig(lr=1.0, warmup_steps=9, schedule="wsd", min_lr_fraction=0, decay_fraction=0.2)


@pytest.mark.parametrize(
    ("step", "linear", "root"),
    [
        (0, 0.1, 0.1),
        (8, 0.9, 0.9),
        (9, 1, 1),
        (800, 1, 1),
        (850, 0.75, 0.5),
        (998, 0.01, 1 - math.sqrt(0.99)),
    ],
)
def test_wsd_rises_stays_and_decays(step, linear, root):
    # Hägele et al. 2024, equation 1: 1 - sqrt((n - (N - N_decay)) / N_decay), N = 1000
    assert learning_rate(step, 1000, WSD) == pytest.approx(root)
    assert learning_rate(step, 1000, WSD.but(decay_shape="linear")) == pytest.approx(linear)
    tail = WSD.but(min_lr_fraction=0.5)
    assert learning_rate(999, 1000, tail) == pytest.approx(0.5, abs=0.01)
    assert learning_rate(500, 1000, tail) == 1


def test_embeddings_have_a_rate_of_their_own(tiny):
    model = GPT(tiny)
    config = OptimConfig(optimizer="muon", embedding_lr_ratio=0.1, muon_lr_ratio=2)
    muon, adam = build_optimizers(model, config)
    set_learning_rate([muon, adam], 1.0)
    rates = {id(p): g["lr"] for o in (muon, adam) for g in o.param_groups for p in g["params"]}
    names = {"wte.weight": 0.1, "wpe.weight": 0.1, "h.0.attn.c_attn.weight": 2, "ln_f.bias": 1}
    for name, rate in names.items():
        assert rates[id(model.get_parameter(name))] == rate


def test_only_matrices_decay(tiny):
    model = GPT(tiny)
    (adam,) = build_optimizers(model, OptimConfig())
    decay, plain = adam.param_groups
    assert all(p.ndim >= 2 for p in decay["params"]) and decay["weight_decay"] == 0.1
    assert all(p.ndim < 2 for p in plain["params"]) and plain["weight_decay"] == 0
    assert sum(len(g["params"]) for g in adam.param_groups) == len(list(model.parameters()))


def test_muon_takes_the_hidden_matrices_only(tiny):
    model = GPT(tiny)
    muon, adam = build_optimizers(model, OptimConfig(optimizer="muon", muon_lr_ratio=2))
    assert len(muon.param_groups[0]["params"]) == 4 * tiny.n_layer
    rest = {id(p) for g in adam.param_groups for p in g["params"]}
    assert id(model.wte.weight) in rest and id(model.wpe.weight) in rest
    assert len(rest) + 4 * tiny.n_layer == len(list(model.parameters()))
    set_learning_rate([muon, adam], 0.5)
    assert muon.param_groups[0]["lr"] == 1.0 and adam.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_muon_is_pytorchs(dtype, kernels, tiny, monkeypatch):
    if not kernels:
        monkeypatch.setattr(products, "multiplies", lambda matrices, dtype: False)
    torch.manual_seed(0)
    ours, theirs = GPT(tiny), GPT(tiny)
    theirs.load_state_dict(ours.state_dict())
    config = OptimConfig(optimizer="muon", lr=1e-2)
    mine, _ = build_optimizers(ours, config, dtype=dtype)
    named = [p for n, p in theirs.named_parameters() if n.startswith("h.") and p.ndim == 2]
    reference = torch.optim.Muon(named, lr=1e-2, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for a, b in zip(mine.param_groups[0]["params"], named, strict=True):
            a.grad = b.grad = torch.randn_like(a)
        mine.step()
        reference.step()
    same = dtype == torch.bfloat16 and not kernels  # theirs multiplies in bfloat16, rounded so
    tolerance = 1e-6 if same else 1e-3
    for a, b in zip(mine.param_groups[0]["params"], named, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def test_release_adam_is_the_releases_rule():
    model = nn.Linear(3, 2)
    config = GPT1_FINETUNE_OPTIM.but(optimizer="release_adam", lr=0.1)
    (optimizer,) = build_optimizers(model, config)
    p = model.weight.detach().clone().double()
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    for t in range(1, 5):  # opt.py, adam(): lr_t = lr sqrt(1 - b2^t) / (1 - b1^t)
        g = torch.full((2, 3), 0.3 * t) + torch.arange(3)
        model.weight.grad, model.bias.grad = g.clone(), torch.zeros(2)
        optimizer.step()
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        lr_t = 0.1 * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        p = p - lr_t * (m / (v.sqrt() + 1e-8) + 0.01 * p)
    torch.testing.assert_close(model.weight.detach().double(), p, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["adamw", "muon", "release_adam"])
def test_optimizer_state_comes_back_bit_for_bit(kind, tiny):
    config = OptimConfig(optimizer=kind, lr=1e-2)

    def steps(model, optimizers, numbers):
        for number in numbers:
            torch.manual_seed(number)
            tokens = torch.randint(0, tiny.vocab_size, (2, 9))
            model.lm_loss(tokens[:, :-1], tokens[:, 1:]).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

    torch.manual_seed(0)
    whole = GPT(tiny)
    both = build_optimizers(whole, config)
    steps(whole, both, range(3))
    saved = {k: v.clone() for k, v in optimizer_tensors(whole, both).items()}
    weights = {k: v.clone() for k, v in whole.state_dict().items()}
    steps(whole, both, range(3, 6))

    again = GPT(tiny)
    again.load_state_dict(weights)
    fresh = build_optimizers(again, config)
    restore_optimizers(again, fresh, saved)
    steps(again, fresh, range(3, 6))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_state_of_another_model_is_refused(tiny):
    model = GPT(tiny)
    with pytest.raises(ValueError, match=r"'h\.9\.x', which this model does not train"):
        restore_optimizers(
            model, build_optimizers(model, OptimConfig()), {"h.9.x/step": torch.tensor(1.0)}
        )
