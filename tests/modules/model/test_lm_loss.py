"""The language model's loss and its gradient, in pieces. Oracles: autograd, differences."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from modules.kernels import ops
from modules.model import base
from modules.model.gpt import GPT
from tests.modules.model.small_gpt import SMALL, random_model, random_tokens

torch.set_num_threads(1)


def plain_loss(model, tokens, targets):
    """The mean cross-entropy over all logits at once, and its gradients by autograd."""
    model.zero_grad()
    loss = F.cross_entropy(model.logits(model(tokens)).flatten(0, 1), targets.flatten())
    loss.backward()
    return loss.item(), [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("chunk", [1, 53 * 7, 2**25])
@pytest.mark.parametrize("ignored", [0, 5])
def test_loss_and_gradient_equal_plain_cross_entropy(monkeypatch, chunk, ignored):
    monkeypatch.setattr(base, "CHUNK", chunk)
    model, tokens, targets = random_model(), random_tokens(3, 10), random_tokens(3, 10, seed=2)
    targets.view(-1)[:: 30 // ignored if ignored else 99][:ignored] = -100
    expected, gradients = plain_loss(model, tokens, targets)
    model.zero_grad()
    loss = model.lm_loss(tokens, targets)
    (2 * loss).backward()
    assert loss.item() == pytest.approx(expected, rel=1e-14)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient, rtol=1e-10, atol=1e-14)
    with torch.no_grad():
        assert model.lm_loss(tokens, targets).item() == pytest.approx(expected, rel=1e-14)


def test_loss_gradient_by_finite_differences():
    hidden = torch.randn(2, 4, 12, dtype=torch.float64, requires_grad=True)
    model, targets = random_model(), random_tokens(2, 4)
    weights = torch.tensor([[0.5, 0.0, 0.1, 2.0], [0.0, 0.0, 0.3, 0.2]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda h: model.weighted_loss(h, targets, weights), (hidden,))


def test_nothing_to_score_is_no_loss():
    model, tokens = random_model(), random_tokens(2, 5)
    loss = model.lm_loss(tokens, torch.full_like(tokens, -100))
    loss.backward()
    assert loss.item() == 0
    assert all((p.grad == 0).all() for p in model.parameters())


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_the_logits_of_a_batch_never_exist_at_once(monkeypatch):
    monkeypatch.setattr(base, "CHUNK", 2**12)
    monkeypatch.setattr(ops, "HELD", 2**13)
    config = SMALL.but(vocab_size=1000)
    model, tokens = GPT(config), random_tokens(4, 24)
    with Largest() as seen:
        model.lm_loss(tokens, tokens).backward()
    assert seen.numel <= config.vocab_size * config.n_embd < tokens.numel() * config.vocab_size / 4


def test_loss_under_bf16_autocast_is_close_to_float32():
    torch.manual_seed(0)
    model = GPT(SMALL.but(n_embd=48, init_std=0.1))
    tokens, targets = random_tokens(4, 20), random_tokens(4, 20, seed=2)
    expected, gradients = plain_loss(model, tokens, targets)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.lm_loss(tokens, targets)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-3)
    got = torch.cat([p.grad.flatten() for p in model.parameters()])
    want = torch.cat([g.flatten() for g in gradients])
    assert (got - want).norm() / want.norm() < 0.03
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model.lm_loss(tokens, targets).item() == pytest.approx(loss.item(), rel=1e-4)


def test_token_losses_are_per_position():
    model, tokens, targets = random_model(), random_tokens(2, 6), random_tokens(2, 6, seed=2)
    targets[1, 2] = -100
    with torch.no_grad():
        hidden = model(tokens)
        flat = model.logits(hidden).flatten(0, 1)
        expected = F.cross_entropy(flat, targets.flatten(), reduction="none").view(2, 6)
        torch.testing.assert_close(model.token_losses(hidden, targets), expected)
    assert expected[1, 2] == 0


def test_the_model_learns_a_sequence_by_heart():
    torch.manual_seed(0)
    model = GPT(SMALL.but(n_embd=24)).train()
    tokens = random_tokens(1, 20)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model.lm_loss(tokens[:, :-1], tokens[:, 1:]).backward()
        optimizer.step()
    with torch.no_grad():
        assert model.lm_loss(tokens[:, :-1], tokens[:, 1:]) < 0.05
