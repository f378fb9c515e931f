"""The decoder's features and attention: order of operations, dropout. Oracle: numpy."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modules.model.attention import attend, attend_blocks
from modules.model.gpt import GPT, GPTConfig
from tests.modules.model.small_gpt import SMALL, random_model, random_tokens

torch.set_num_threads(1)


def numpy_forward(model: GPT, tokens: np.ndarray) -> np.ndarray:
    """The decoder again, from gpt1.md 1.1 and gpt2.md 1.1, one row and one head at a time."""
    p = {name: t.numpy() for name, t in model.state_dict().items()}
    c, heads = model.config.n_embd, model.config.n_head
    d = c // heads

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * p[f"{name}.weight"] + p[f"{name}.bias"]

    def affine(x, name):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def attention(x, name):
        q, k, v = np.split(affine(x, f"{name}.c_attn"), 3, axis=-1)
        out = np.zeros_like(x)
        for h in range(heads):
            part = slice(h * d, (h + 1) * d)
            for t in range(len(x)):
                scores = k[: t + 1, part] @ q[t, part] / math.sqrt(d)
                weights = np.exp(scores - scores.max())
                out[t, part] = weights / weights.sum() @ v[: t + 1, part]
        return affine(out, f"{name}.c_proj")

    def mlp(x, name):
        y = affine(x, f"{name}.c_fc")
        y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
        return affine(y, f"{name}.c_proj")

    x = p["wte.weight"][tokens] + p["wpe.weight"][: len(tokens)]
    for i in range(model.config.n_layer):
        h = f"h.{i}"
        if model.config.norm == "pre":
            x = x + attention(norm(x, f"{h}.ln_1"), f"{h}.attn")
            x = x + mlp(norm(x, f"{h}.ln_2"), f"{h}.mlp")
        else:
            n = norm(x + attention(x, f"{h}.attn"), f"{h}.ln_1")
            x = norm(n + mlp(n, f"{h}.mlp"), f"{h}.ln_2")
    return norm(x, "ln_f") if model.config.norm == "pre" else x


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_features_equal_a_plain_numpy_decoder(norm):
    model = random_model(SMALL.but(norm=norm))
    tokens = random_tokens(3, 11)
    with torch.no_grad():
        got = model(tokens)
        logits = model.logits(got)
    for row in range(3):
        expected = numpy_forward(model, tokens[row].numpy())
        np.testing.assert_allclose(got[row].numpy(), expected, rtol=0, atol=1e-12)
        tied = expected @ model.wte.weight.detach().numpy().T
        np.testing.assert_allclose(logits[row].numpy(), tied, rtol=0, atol=1e-11)


def test_the_future_changes_nothing():
    model, tokens = random_model(), random_tokens(2, 12)
    other = tokens.clone()
    other[:, 7:] = (other[:, 7:] + 1) % SMALL.vocab_size
    with torch.no_grad():
        a, b = model(tokens), model(other)
    assert torch.equal(a[:, :7], b[:, :7])
    assert (a[:, 7:] - b[:, 7:]).abs().max() > 1e-3


@pytest.mark.parametrize("where", ["embd_dropout", "attn_dropout", "resid_dropout"])
def test_each_dropout_acts_in_training_only(where):
    model = random_model(SMALL.but(**{where: 0.5}))
    tokens = random_tokens(2, 9)
    with torch.no_grad():
        assert torch.equal(model(tokens), model(tokens))
        model.train()
        assert not torch.equal(model(tokens), model(tokens))


def test_attention_is_softmax_of_scaled_products():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 300, 8, dtype=torch.float64)
    scores = q @ k.mT / math.sqrt(8)
    scores = scores.masked_fill(torch.ones(300, 300).triu(1).bool(), -math.inf)
    torch.testing.assert_close(attend(q, k, v, None, 0.0), scores.softmax(-1) @ v)


@pytest.mark.parametrize("length", [1, 127, 128, 300])
def test_attention_in_blocks_is_the_same_attention(length):
    torch.manual_seed(0)
    x = torch.randn(3, 2, 4, length, 8, dtype=torch.float64, requires_grad=True)
    up = torch.randn(2, 4, length, 8, dtype=torch.float64)
    expected = F.scaled_dot_product_attention(*x, is_causal=True)
    (gradient,) = torch.autograd.grad(expected, x, up)
    got = attend_blocks(*x, 0.0)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(torch.autograd.grad(got, x, up)[0], gradient)


def test_attention_dropout_in_blocks_keeps_the_mean():
    torch.manual_seed(0)
    q = torch.randn(8, 4, 130, 8, requires_grad=True)
    got = attend(q, q, torch.ones_like(q), None, 0.25)  # each row: sum of what is kept / 0.75
    assert got.mean().item() == pytest.approx(1.0, abs=0.02)
    assert (got == 0).all(-1)[:, :, 0].float().mean().item() == pytest.approx(0.25, abs=0.2)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_features_of_some_positions_are_those_of_all(norm):
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
    model = GPT(GPTConfig(norm=norm, **sizes)).double().eval()
    tokens, kept = torch.randint(0, 40, (3, 12)), torch.tensor([11, 0, 4])
    with torch.no_grad():
        torch.testing.assert_close(model(tokens, at=kept), model(tokens)[:, kept])
