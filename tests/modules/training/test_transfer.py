"""muP: the folded output multiplier is the explicit one, and what updates do stays across widths.

Yang et al. 2022: Table 8 for the rules, appendix D.1 for the coordinate check.
"""

import pytest
import torch
from torch.nn.functional import cross_entropy

from modules.model.gpt import GPT, GPTConfig
from modules.training.config import OptimConfig, PretrainConfig
from modules.training.optim import build_optimizers, set_learning_rate
from modules.training.transfer import is_output_norm, rescale
from modules.training.tuning_config import FinetuneConfig

BASE = 32


def gpt(width: int, norm: str = "pre") -> GPT:
    torch.manual_seed(0)
    size = GPTConfig(vocab_size=50, n_positions=16, n_layer=2, n_head=width // 16, n_embd=width)
    return GPT(size.but(norm=norm))


def train(model, optimizers, lr, *, scale=1.0, steps=5) -> list[float]:
    """Return the losses on fixed tokens; features are multiplied by `scale`."""
    set_learning_rate(optimizers, lr)
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        tokens = torch.randint(0, 50, (4, 17))
        logits = model.logits(model(tokens[:, :-1]) * scale)
        loss = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon", "release_adam"])
def test_the_folded_multiplier_is_the_explicit_one(optimizer, norm):
    config = OptimConfig(optimizer=optimizer, eps=1e-30, base_width=BASE)
    folded, explicit = gpt(4 * BASE, norm).double(), gpt(4 * BASE, norm).double()
    for model in (folded, explicit):
        rescale(model, config)
    both = [build_optimizers(m, config, dtype=torch.float64) for m in (folded, explicit)]
    gain, bias = (p for n, p in explicit.named_parameters() if is_output_norm(explicit, n))
    with torch.no_grad():
        gain.mul_(4)  # 1 again: the multiplier of 1/4 stands outside
    (group,) = (g for o in both[1] for g in o.param_groups if any(p is gain for p in g["params"]))
    assert group["params"] == [gain, bias] and group["ratio"] == 0.25
    group["ratio"] = 1.0
    assert train(folded, both[0], 0.01) == pytest.approx(
        train(explicit, both[1], 0.01, scale=0.25), rel=1e-9
    )


def drift(width: int, config: OptimConfig) -> float:
    """Return how far three updates move the logits of fixed tokens."""
    model = gpt(width)
    rescale(model, config)
    torch.manual_seed(9)
    tokens = torch.randint(0, 50, (4, 16))
    before = model.logits(model(tokens)).detach()
    train(model, build_optimizers(model, config), config.lr, steps=3)
    return float((model.logits(model(tokens)) - before).detach().std())


@pytest.mark.parametrize(("optimizer", "lr"), [("adamw", 0.01), ("muon", 0.02)])
def test_updates_move_the_logits_alike_at_any_width(optimizer, lr):
    plain = OptimConfig(optimizer=optimizer, lr=lr)
    scaled = plain.but(base_width=BASE)
    assert drift(8 * BASE, plain) > 2 * drift(BASE, plain)
    assert drift(8 * BASE, scaled) == pytest.approx(drift(BASE, scaled), rel=0.4)


def test_at_the_base_width_nothing_changes():
    config = OptimConfig(optimizer="muon")
    runs = []
    for settings in (config, config.but(base_width=BASE)):
        model = gpt(BASE)
        rescale(model, settings)
        runs.append(train(model, build_optimizers(model, settings), 0.01))
    assert runs[0] == runs[1]


def test_other_models_are_refused():
    optim = OptimConfig(base_width=BASE)
    with pytest.raises(ValueError, match="between GPTs only"):
        PretrainConfig(model={"architecture": "lstm"}, optim=optim, max_steps=1)
    with pytest.raises(ValueError, match="for pre-training"):
        FinetuneConfig(optim=optim)
