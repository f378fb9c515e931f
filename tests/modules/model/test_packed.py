"""Packed sequences beside the same sequences alone: features, losses and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from modules.kernels import build
from modules.kernels.gradients import in_place_gradients
from modules.model.base import Decoder
from modules.model.gpt import GPT, GPTConfig
from modules.model.heads import HeadConfig, TaskModel
from modules.model.lstm import LSTM, LSTMConfig
from modules.model.packed import SHARED, pack
from tests.modules.kernels.test_ops import here

Shapes = list[tuple[int, list[int]]]  # per example: tokens shared, tokens of each sequence's own


def decoder_of(kind: str) -> Decoder:
    torch.manual_seed(0)
    if kind == "lstm":
        return LSTM(LSTMConfig(vocab_size=50, n_positions=200, n_embd=16, n_units=12))
    sizes = {"vocab_size": 50, "n_positions": 200, "n_embd": 32, "n_layer": 2, "n_head": 2}
    return GPT(GPTConfig(norm=kind, init_std=0.2, **sizes))


def model_of(kind: str, form: str = "multiple_choice") -> TaskModel:
    return TaskModel(decoder_of(kind), HeadConfig(format=form, n_classes=3, dropout=0)).train()


def batch_of(shapes: Shapes) -> tuple[Tensor, Tensor]:
    """Tokens (B, K, T) with common beginnings, and the extract positions (B, K)."""
    generator = torch.Generator().manual_seed(1)
    k = max(len(own) for _, own in shapes)
    tokens = torch.zeros(len(shapes), k, max(p + max(own) for p, own in shapes), dtype=torch.int64)
    extract = torch.full((len(shapes), k), -1)
    for b, (prefix, own) in enumerate(shapes):
        beginning = torch.randint(1, 50, (prefix,), generator=generator)
        for i, n in enumerate(own):
            rest = torch.randint(1, 50, (n,), generator=generator)
            tokens[b, i, : prefix + n] = torch.cat([beginning, rest])
            extract[b, i] = prefix + n - 1
    return tokens, extract


def gradients(model: TaskModel) -> Tensor:
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return torch.cat([grad.flatten().double() for grad in grads])


def alone(
    model: TaskModel, tokens: Tensor, extract: Tensor, labels: Tensor, lm_weight: float = 0.5
) -> list[Tensor]:
    """Logits, loss and gradients, one sequence at a time by the decoder's own logits."""
    model.zero_grad()
    logits, lm = torch.full(extract.shape, -torch.inf, dtype=torch.float64), []
    for b, i in (extract >= 0).nonzero().tolist():
        sequence = tokens[b, i, : extract[b, i] + 1]
        hidden = model.decoder(sequence[None])[0]
        logits[b, i] = model.head(hidden[-1])[0]
        p = model.decoder.logits(hidden[:-1]).log_softmax(1)
        lm.append(-p[torch.arange(len(p)), sequence[1:]].mean())
    loss = torch.nn.functional.cross_entropy(logits, labels)
    loss = loss + lm_weight * torch.stack(lm).mean()
    loss.backward()
    return [logits.detach(), loss.detach(), gradients(model)]


def together(
    model: TaskModel, tokens: Tensor, extract: Tensor, labels: Tensor, lm_weight: float = 0.5
) -> list[Tensor]:
    model.zero_grad()
    loss, _, _, logits = model.losses(tokens, extract, labels, lm_weight=lm_weight)
    loss.backward()
    return [logits.detach().double(), loss.detach().double(), gradients(model)]


EXAMPLES: Shapes = [(70, [9, 70, 3, 1]), (0, [64, 5, 130]), (SHARED, [2, 2]), (SHARED - 1, [1, 4])]
LABELS = torch.tensor([3, 0, 1, 1])


@pytest.mark.parametrize(
    "lm_weight", [0.5, 0.0]
)  # 0: extract tokens alone go through the last block
@pytest.mark.parametrize("kind", ["pre", "post", "lstm"])
def test_a_pack_is_its_sequences_alone(kind, lm_weight):
    model = model_of(kind).double()
    batch = (*batch_of(EXAMPLES), LABELS, lm_weight)
    for a, b in zip(together(model, *batch), alone(model, *batch), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@settings(max_examples=40, deadline=None, database=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 80), st.lists(st.integers(2, 80), min_size=2, max_size=4)),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([0.5, 0.0]),
)
def test_lengths_and_prefixes_of_any_kind(shapes, lm_weight):
    model = model_of("pre").double()
    batch = (*batch_of(shapes), torch.tensor([len(own) - 1 for _, own in shapes]), lm_weight)
    for a, b in zip(together(model, *batch), alone(model, *batch), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@here
@settings(max_examples=25, deadline=None, database=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 150), st.lists(st.integers(2, 49), min_size=2, max_size=4)),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([0.5, 0.0]),
)
def test_the_kernels_agree_up_to_bfloat16(shapes, lm_weight):
    labels = torch.tensor([0] * len(shapes))
    model = model_of("pre")
    with torch.autocast("cpu", torch.bfloat16):
        logits, loss, gradient = together(model, *batch_of(shapes), labels, lm_weight)
    exact = alone(model.double(), *batch_of(shapes), labels, lm_weight)
    torch.testing.assert_close(loss, exact[1], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(logits, exact[0], rtol=2e-2, atol=5e-2)
    assert (gradient - exact[2]).norm() < 0.04 * exact[2].norm()


@here
@pytest.mark.parametrize("lm_weight", [0.5, 0.0])
def test_gradients_in_place_are_the_same_sums(lm_weight):
    model = model_of("pre")
    micro = [(*batch_of(EXAMPLES[i : i + 2]), LABELS[i : i + 2]) for i in (0, 2)]
    parts = {"lm_weight": lm_weight, "share": 0.3, "lm_share": 0.7}
    found = []
    for in_place in (False, True, True):
        model.zero_grad()
        for batch in micro:
            with in_place_gradients(in_place):
                with torch.autocast("cpu", torch.bfloat16):
                    total, *_ = model.losses(*batch, **parts)
                total.backward()
        found.append(gradients(model))
    for again in found[1:]:
        torch.testing.assert_close(again, found[0], rtol=1e-4, atol=1e-7)


@here
def test_what_is_frozen_keeps_no_gradient():
    model = model_of("pre")
    model.decoder.h.requires_grad_(False)
    with in_place_gradients(True):
        with torch.autocast("cpu", torch.bfloat16):
            total, *_ = model.losses(*batch_of(EXAMPLES), LABELS)
        total.backward()
    kept = {n for n, p in model.named_parameters() if p.grad is not None}
    assert kept == {n for n, p in model.named_parameters() if ".h." not in n}


@here
@pytest.mark.parametrize("lm_weight", [0.5, 0.0])
def test_a_key_that_is_not_finite_shows_in_the_loss(lm_weight):
    model = model_of("pre")
    width = model.decoder.width
    with torch.no_grad():
        model.decoder.h[-1].attn.c_attn.weight[width : 2 * width] = torch.nan
    with torch.autocast("cpu", torch.bfloat16, enabled=build.element() == torch.bfloat16):
        total, *_ = model.losses(*batch_of(EXAMPLES), LABELS, lm_weight=lm_weight)
    assert total.isnan()


def test_shared_tokens_are_held_once_and_padding_never():
    tokens, extract = batch_of([(20, [3, 5, 2]), (0, [4, 9])])
    shared, apart = (pack(tokens, extract, share=share) for share in (True, False))
    assert len(shared.tokens) == 20 + 10 + 13 and len(apart.tokens) == 60 + 10 + 13
    assert len(shared.starts) - 1 == 1 + 2 and len(apart.starts) - 1 == 5
    for packed in (shared, apart):
        real = torch.arange(tokens.shape[2]) <= extract[..., None]
        assert torch.equal(packed.tokens[packed.slots][real], tokens[real])
        assert torch.equal(packed.positions[packed.slots][real], real.nonzero()[:, 2])


@pytest.mark.parametrize(
    ("form", "dropout", "held"),
    [("multiple_choice", 0.0, 27), ("multiple_choice", 0.1, 47), ("similarity", 0.0, 47)],
)
def test_what_dropout_must_tell_apart_is_not_shared(form, dropout, held):
    config = GPTConfig(vocab_size=50, n_positions=64, n_embd=8, n_layer=1, n_head=1)
    decoder = GPT(config.but(resid_dropout=dropout))
    model = TaskModel(decoder, HeadConfig(format=form)).train()
    batch = batch_of([(20, [3, 4])])
    assert len(model.pack(*batch).tokens) == held
    assert len(model.eval().pack(*batch).tokens) == (47 if form == "similarity" else 27)


def test_the_limit_of_positions_is_that_of_a_sequence():
    model = model_of("pre")
    model(*batch_of([(0, [100, 100, 100])]))
    with pytest.raises(ValueError, match="201 tokens a row; the model has 200"):
        model(*batch_of([(0, [201, 3])]))


def varlen(q, k, v, queries, keys, longest_q, longest_k, *, window_size):
    """What varlen_attn computes, a segment at a time; flash attention aligns the last ones."""
    assert window_size == (-1, 0)
    out = []
    for i in range(len(queries) - 1):
        a, b = slice(queries[i], queries[i + 1]), slice(keys[i], keys[i + 1])
        n, m = len(q[a]), len(k[b])
        assert n <= longest_q and n <= m <= longest_k
        seen = torch.ones(n, m, dtype=torch.bool).tril(m - n)
        x = [x.transpose(0, 1) for x in (q[a], k[b], v[b])]
        y = torch.nn.functional.scaled_dot_product_attention(*x, attn_mask=seen)
        out.append(y.transpose(0, 1))
    return torch.cat(out)


def test_the_way_of_a_gpu_sees_the_same(monkeypatch):
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen)
    packed = pack(*batch_of(EXAMPLES), share=True)
    q, k, v = torch.randn(3, len(packed.tokens), 2, 8, dtype=torch.float64)
    rows = [packed.padded(x).transpose(1, 2) for x in (q, k, v)]
    plain = torch.nn.functional.scaled_dot_product_attention(*rows, attn_mask=packed.mask)
    torch.testing.assert_close(packed.attend(q, k, v), packed.packed(plain.transpose(1, 2)))
