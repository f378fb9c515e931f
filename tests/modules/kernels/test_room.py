"""Activations on loan from gradients' memory: the same bits, whatever order graphs come in."""

import pytest
import torch

from modules.kernels import gradients, ops, room
from modules.model import gpt
from modules.training.plan import traced_bytes
from tests.modules.kernels.test_ops import flat, here, in_bfloat16, model_of, precision, tokens_of

SIZES = [(99, 9, 30, 2), (333, 70, 128, 2), (500, 16, 192, 3), (40_000, 300, 64, 1)]


def alone(patch):
    """Give everything memory of its own."""
    patch.setattr(gpt, "gather", lambda module: None)


def loss_of(model, pair):
    with precision():
        return model.lm_loss(*pair)


def step(model, *pairs):
    """Return the gradients of a step with these micro-batches."""
    model.zero_grad()
    with gradients.in_place_gradients(True):
        for pair in pairs:
            loss_of(model, pair).backward()
    return flat(model)


@here
@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_same_bits_as_in_memory_of_their_own(sizes, micro_batches, monkeypatch):
    model = model_of(*sizes)
    pairs = [tokens_of(model, 3) for _ in range(micro_batches)]
    lent = [step(model, *pairs) for _ in range(2)]
    alone(monkeypatch)
    expected = step(model_of(*sizes), *pairs)
    assert torch.equal(lent[0], expected)
    assert torch.equal(lent[1], expected)


@here
def test_what_is_kept_needs_no_memory(monkeypatch):
    def kept():
        model, losses = model_of(100, 32, 256, 2), []
        pair = tokens_of(model, 2)
        step(model, pair)
        model.zero_grad()
        with gradients.in_place_gradients(True):
            return traced_bytes(lambda: losses.append(loss_of(model, pair)))[-1]

    lent = kept()
    alone(monkeypatch)
    saved = kept() - lent
    blocks = 2 * sum(ops.ATTENTION_KEEPS + ops.MLP_KEEPS)
    first_half = sum(ops.ATTENTION_KEEPS)  # nothing comes before it
    element = 2 if in_bfloat16 else 4
    assert saved == (blocks - first_half) * 64 * 256 * element


@here
@pytest.mark.parametrize("order", ["as they came", "last first", "first is dropped"])
def test_two_graphs_at_once_leave_each_other_alone(order, monkeypatch):
    model = model_of(200, 40, 96, 3)
    pairs = [tokens_of(model, 2) for _ in range(2)]

    def both():
        model.zero_grad()
        with gradients.in_place_gradients(True), precision():
            hidden = [model(tokens) for tokens, _ in pairs]
            if order == "first is dropped":
                del hidden[0]
            for one in hidden if order == "as they came" else hidden[::-1]:
                one.square().mean().backward()
        return torch.cat([w.grad.flatten() for w in model.h.parameters()])

    both()
    lent = both()
    alone(monkeypatch)
    model = model_of(200, 40, 96, 3)
    assert torch.equal(lent, both())


@here
def test_gradients_that_are_there_are_not_written_over():
    model = model_of(200, 40, 96, 3)
    pair = tokens_of(model, 2)
    step(model, pair)
    model.zero_grad()
    with gradients.in_place_gradients(True):
        loss_of(model, pair).backward()
        some = model.h[0].mlp.c_fc.weight
        model.h[0].ln_1.weight.grad = None  # the first; the others stay
        before = some.grad.clone()
        loss_of(model, pair)
        assert torch.equal(some.grad, before)


@here
def test_models_that_share_a_block_do_not_share_a_room():
    one, other = model_of(200, 40, 96, 3), model_of(200, 40, 96, 3)
    other.h[0] = one.h[0]
    pair = tokens_of(one, 2)
    step(one, pair)
    before = [w.grad.clone() for w in one.h[1].parameters()]
    step(other, pair)  # clears the gradients of the first block, uses it, and another second one
    step(other, pair)
    for weight, gradient in zip(one.h[1].parameters(), before, strict=True):
        assert torch.equal(weight.grad, gradient)


@here
def test_backward_twice_is_told():
    model = model_of(200, 40, 96, 3)
    tokens, _ = tokens_of(model, 2)
    with gradients.in_place_gradients(True), precision():
        loss = model(tokens).sum()
        loss.backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="twice"):
            loss.backward()


def test_a_loan_ends_with_who_has_it():
    weights = [torch.empty(10, 10) for _ in range(3)]  # 448 bytes each, in whole lines
    whole = room.Room(weights)
    assert whole.starts == [0, 448, 896]
    first, second = room.Loan(whole, 448), room.Loan(whole, 896)
    assert first.take(100) == 0
    assert second.take(400) == 128
    assert first.take(100) is None
    assert second.new(1000, dtype=torch.float32).untyped_storage().nbytes() == 4000
    assert whole.lent == 576
    first.end()
    assert whole.lent == 576
    del second
    assert whole.lent == 0
