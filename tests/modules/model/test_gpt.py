"""The decoder: sizes, order of operations, loss and gradient, cache. Oracles: numpy, autograd."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from modules.kernels import ops
from modules.model import base
from modules.model.attention import attend, attend_blocks
from modules.model.gpt import GPT, GPTConfig

torch.set_num_threads(1)

SMALL = GPTConfig(vocab_size=53, n_positions=24, n_embd=12, n_layer=2, n_head=3)
GPT1 = GPTConfig(vocab_size=40478, n_positions=512, norm="post")  # gpt1.md section 1
GPT2 = GPTConfig()
MEDIUM = GPT2.but(n_layer=24, n_embd=1024, n_head=16)  # gpt2.md section 1
LARGE = GPT2.but(n_layer=36, n_embd=1280, n_head=20)
XL = GPT2.but(n_layer=48, n_embd=1600, n_head=25)


def random_model(config: GPTConfig = SMALL, seed: int = 0) -> GPT:
    """A float64 model with something in every tensor."""
    torch.manual_seed(seed)
    model = GPT(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def random_tokens(batch: int, length: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, SMALL.vocab_size, (batch, length), generator=generator)


@pytest.mark.parametrize(
    ("config", "total", "body", "tensors"),
    [
        (GPT1, 116_534_784, 85_054_464, 146),  # gpt1.md section 1
        (GPT1.but(vocab_size=40481), 116_537_088, 85_054_464, 146),  # with the special tokens
        (GPT2, 124_439_808, 85_056_000, 148),  # gpt2.md section 1
        (MEDIUM, 354_823_168, 302_311_424, 292),
        (LARGE, 774_030_080, 708_390_400, 436),
        (XL, 1_557_611_200, 1_475_561_600, 580),
    ],
)
def test_parameter_counts_are_the_papers(config, total, body, tensors):
    with torch.device("meta"):
        model = GPT(config)
    assert sum(p.numel() for p in model.parameters()) == config.n_params == total
    assert config.n_params_body == body
    assert len(model.state_dict()) == tensors


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


def test_only_gpt2_has_a_final_norm():
    assert not [n for n in GPT(SMALL.but(norm="post")).state_dict() if n.startswith("ln_f")]
    assert [n for n in GPT(SMALL).state_dict() if n.startswith("ln_f")]


def test_the_future_changes_nothing():
    model, tokens = random_model(), random_tokens(2, 12)
    other = tokens.clone()
    other[:, 7:] = (other[:, 7:] + 1) % SMALL.vocab_size
    with torch.no_grad():
        a, b = model(tokens), model(other)
    assert torch.equal(a[:, :7], b[:, :7])
    assert (a[:, 7:] - b[:, 7:]).abs().max() > 1e-3


def spread(model: GPT) -> dict[str, float]:
    return {n: p.std().item() for n, p in model.named_parameters() if p.dim() > 1}


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_new_weights_are_drawn_as_the_papers_say(norm):
    torch.manual_seed(0)
    config = GPTConfig(
        vocab_size=300,
        n_positions=64,
        n_embd=96,
        n_layer=8,
        n_head=4,
        norm=norm,
        positions_std=0.01,
    )
    model = GPT(config)
    for name, std in spread(model).items():
        expected = 0.02
        if name == "wpe.weight":
            expected = 0.01
        elif norm == "pre" and name.endswith("c_proj.weight"):
            expected = 0.02 / 4  # 1 / sqrt(2 * 8 layers); only GPT-2 scales
        assert std == pytest.approx(expected, rel=0.05), name
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert (parameter == (0 if name.endswith("bias") else 1)).all(), name


def test_a_generator_fixes_the_weights():
    a, b = GPT(SMALL), GPT(SMALL)
    a.init_weights(torch.Generator().manual_seed(5))
    b.init_weights(torch.Generator().manual_seed(5))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


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


# The loss


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


# The cache


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("pieces", [[16], [1] * 16, [5, 1, 4, 6]])
def test_reading_in_pieces_with_a_cache_is_reading_at_once(norm, pieces):
    model, tokens = random_model(SMALL.but(norm=norm)), random_tokens(3, 16)
    with torch.no_grad():
        expected = model(tokens)
        cache = model.new_cache(3, 16)
        got = torch.cat([model(part, cache) for part in tokens.split(pieces, 1)], 1)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    assert cache.lengths == [16] * 3


@torch.no_grad()
def test_rows_of_different_lengths_share_a_cache():
    model, tokens = random_model(), random_tokens(3, 16)
    expected = model(tokens)
    lengths = [5, 9, 2]
    padded = tokens[:, :9].clone()
    for row, n in enumerate(lengths):
        padded[row, n:] = 52  # padding of any kind leaves no trace
    cache = model.new_cache(3, 16)
    first = model(padded, cache, lengths)
    for row, n in enumerate(lengths):
        torch.testing.assert_close(first[row, :n], expected[row, :n], rtol=0, atol=1e-12)
    for count in (1, 3, 1):
        new = torch.stack([tokens[row, n : n + count] for row, n in enumerate(cache.lengths)])
        before = list(cache.lengths)
        got = model(new, cache)
        for row, n in enumerate(before):
            torch.testing.assert_close(got[row], expected[row, n : n + count], rtol=0, atol=1e-12)
    assert cache.lengths == [10, 14, 7]


@torch.no_grad()
def test_a_prefix_is_read_once_and_shared():
    model, prefix, endings = random_model(), random_tokens(1, 6), random_tokens(4, 5, seed=3)
    cache = model.new_cache(1, 16)
    model(prefix, cache)
    got = model(endings, cache.take([0] * 4))
    expected = model(torch.cat([prefix.expand(4, -1), endings], 1))[:, 6:]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    assert cache.lengths == [6]


def test_too_many_tokens_are_refused():
    model = random_model()
    with pytest.raises(ValueError, match="25 tokens a row; the model has 24 positions"):
        model(random_tokens(1, 25))
    with pytest.raises(ValueError, match="a cache of 25"):
        model.new_cache(1, 25)
    cache = model.new_cache(1, 4)
    with torch.no_grad(), pytest.raises(ValueError, match="4 positions; 5 are needed"):
        model(random_tokens(1, 5), cache)


# Special tokens and config


def test_new_tokens_leave_the_old_ones_as_they_are():
    model, tokens = (
        random_model(GPTConfig(**SMALL.model_dump() | {"n_embd": 300})),
        random_tokens(2, 8),
    )
    with torch.no_grad():
        before = model.logits(model(tokens))
    model.resize(3, torch.Generator().manual_seed(0))
    assert model.config.vocab_size == 56 == model.wte.num_embeddings
    assert model.wte.weight.requires_grad and model.wte.weight.dtype == torch.float64
    assert model.wte.weight[53:].std().item() == pytest.approx(0.02, rel=0.1)  # gpt1.md 4.4
    with torch.no_grad():
        after = model.logits(model(tokens))
    torch.testing.assert_close(after[..., :53], before, rtol=0, atol=1e-12)
    model.lm_loss(torch.tensor([[53, 2, 54]]), torch.tensor([[2, 54, 55]])).backward()
    assert (model.wte.weight.grad[53:] != 0).any(1).all()


@pytest.mark.parametrize("wrong", [{"n_head": 5}, {"n_layers": 3}, {"norm": "rms"}, {"n_layer": 0}])
def test_impossible_configs_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SMALL.but(**wrong)


def test_every_field_explains_itself():
    assert all(field.description for field in GPTConfig.model_fields.values())


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_features_of_some_positions_are_those_of_all(norm):
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
    model = GPT(GPTConfig(norm=norm, **sizes)).double().eval()
    tokens, kept = torch.randint(0, 40, (3, 12)), torch.tensor([11, 0, 4])
    with torch.no_grad():
        torch.testing.assert_close(model(tokens, at=kept), model(tokens)[:, kept])
