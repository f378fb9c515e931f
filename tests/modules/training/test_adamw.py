"""One pass for clipping and update, beside torch.optim.AdamW and clip_grad_norm_."""

import copy

import pytest
import torch
from torch import nn

from modules.kernels import gradients
from modules.training import adamw
from modules.training.adamw import AdamW, clip
from tests.modules.kernels.test_ops import here

RULE = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
ROWS = 40


class Words(nn.Module):
    """Embeddings that are read, and summed by a map; its sides are no multiple of a vector's 16."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.map = nn.Embedding(ROWS, 19), nn.Linear(19, 3)

    def forward(self, tokens):
        return self.map(gradients.embed(self.table.weight, tokens)).square().mean()


def backward(model, step):
    """Read some rows, in two micro-batches; rows 30 and on are never read."""
    torch.manual_seed(step)
    model.zero_grad()
    with gradients.in_place_gradients(True):
        for _ in range(2):
            model(torch.randint(0, 30, (5,))).backward()


def pair():
    torch.manual_seed(0)
    ours = Words()
    theirs = copy.deepcopy(ours)
    return ours, AdamW(ours.parameters(), **RULE), theirs, theirs_of(theirs)


def theirs_of(model):
    return torch.optim.AdamW(model.parameters(), fused=True, **RULE)


def step_both(ours, mine, theirs, reference, limit):
    """Step both on our gradients; return both norms."""
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        b.grad = a.grad.clone()
    want = nn.utils.clip_grad_norm_(theirs.parameters(), limit)
    norm = clip([mine], list(ours.parameters()), limit)
    mine.step()
    reference.step()
    return norm, float(want)


def assert_same(ours, mine, theirs, reference):
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=3e-6, atol=1e-6)
        for key, value in reference.state[b].items():
            torch.testing.assert_close(mine.state[a][key], value, rtol=1e-5, atol=1e-9)


@here
@pytest.mark.parametrize("limit", [0.01, 1e9])
def test_it_is_pytorchs_over_many_steps(limit):
    both = pair()
    for step in range(200):
        backward(both[0], step)
        norm, want = step_both(*both, limit)
        assert norm == pytest.approx(want, rel=1e-5)
    assert_same(*both)
    torch.manual_seed(0)
    start, end = Words().table.weight.detach(), both[0].table.weight
    for _ in range(200):
        start = start * (1 - RULE["lr"] * RULE["weight_decay"])
    # never read: only decayed, bit for bit
    assert torch.equal(end[30:], start[30:]) and not both[1].state[end]["exp_avg"][30:].any()


@here
def test_only_rows_that_were_read_have_a_gradient():
    model = Words()
    for step in range(5):  # the memory is the same each time: what the last step left is gone
        backward(model, step)
        grad = model.table.weight.grad
        rows = gradients.rows_with_gradient(model.table.weight)
        assert set(grad.abs().sum(1).nonzero().flatten().tolist()) == set(rows.tolist())
        assert len(rows) == len(set(rows.tolist())) <= 10
    model.zero_grad()
    assert gradients.rows_with_gradient(model.table.weight) is None


@here
@pytest.mark.parametrize("change", ["gradient", "moments", "new moments"])
def test_what_others_change_is_seen(change):
    both = ours, mine, theirs, reference = pair()
    for step in range(6):
        backward(ours, step)
        if step == 3 and change == "gradient":
            ours.table.weight.grad[35] += 1.0  # autograd does so for other uses of the matrix
            assert gradients.rows_with_gradient(ours.table.weight) is None
        if step == 3 and "moments" in change:
            for optimizer, model in ((mine, ours), (reference, theirs)):
                state = optimizer.state[model.table.weight]
                state["exp_avg"] = state["exp_avg"].clone() if "new" in change else state["exp_avg"]
                state["exp_avg"][36] = state["exp_avg_sq"][36] = 0.5
        step_both(*both, 1.0)
    assert_same(*both)


@here
def test_after_a_restart_it_goes_on_bit_for_bit():
    ours, mine, *_ = pair()
    for step in range(4):
        if step == 2:
            again = copy.deepcopy(ours)
            resumed = AdamW(again.parameters(), **RULE)
            resumed.load_state_dict(copy.deepcopy(mine.state_dict()))
        backward(ours, step)
        clip([mine], list(ours.parameters()), 0.01)
        mine.step()
    for step in (2, 3):
        backward(again, step)
        clip([resumed], list(again.parameters()), 0.01)
        resumed.step()
    for a, b in zip(ours.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
        assert all(torch.equal(mine.state[a][key], resumed.state[b][key]) for key in mine.state[a])


def test_without_kernels_it_is_pytorchs_own_step(monkeypatch):
    monkeypatch.setattr(adamw, "library", lambda: None)
    both = pair()
    for step in range(5):
        backward(both[0], step)
        step_both(*both, 0.01)
    assert_same(*both)
