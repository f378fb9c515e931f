"""The kernels compute the plain model's logits, and wrong guesses never change a token."""

from itertools import pairwise

import pytest
import torch

from modules.kernels.build import element
from modules.model import decode
from modules.model.generate import GenerationConfig, generate, stream
from modules.model.gpt import GPT, GPTConfig

torch.set_num_threads(1)
pytestmark = pytest.mark.skipif(
    element() != torch.bfloat16, reason="decoding's own kernels want AVX512-BF16"
)

SIZES = {"vocab_size": 203, "n_positions": 96, "n_embd": 128, "n_layer": 3, "n_head": 4}
CONFIG = GPTConfig(**SIZES, init_std=0.15, positions_std=1.0)  # not one token for ever
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]
GREEDY = GenerationConfig(max_new_tokens=70, temperature=0, batch_size=1)
SAMPLED = GREEDY.but(temperature=0.9, top_k=50, top_p=0.95, seed=2)


@pytest.fixture(scope="module", params=["pre", "post"])
def model(request) -> GPT:
    torch.manual_seed(0)
    made = GPT(CONFIG.but(norm=request.param)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)  # norms and biases too
    return made


def plainly(monkeypatch, model: GPT, config: GenerationConfig) -> list[int]:
    with monkeypatch.context() as patch:
        patch.setattr(decode, "usable", lambda model: False)
        return generate(model, [PROMPT], config)[0]


@torch.no_grad()
def test_the_kernels_give_the_plain_models_logits_and_cache(model):
    tokens = torch.randint(0, CONFIG.vocab_size, (1, 64))
    kept = model.new_cache(1, 64)
    expected = model.logits(model(tokens, kept))[0]
    cache = model.new_cache(1, 64)
    forward = decode._Forward(model, cache, decode._own(model))
    cuts = [0, 7, 8, 38, 64]  # blocks of 7, 1, 30 and 26 tokens
    ids = tokens[0].tolist()
    parts = [forward(ids[a:b], a).clone() for a, b in pairwise(cuts)]
    torch.testing.assert_close(torch.cat(parts), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(cache.keys, kept.keys, rtol=0, atol=1e-4)
    torch.testing.assert_close(cache.values, kept.values, rtol=0, atol=1e-4)


def test_int8_weights_are_off_by_half_a_step_at_most():
    matrix = torch.randn(35, 128) * torch.logspace(-3, 3, 35)[:, None]
    matrix[3] = 0
    packed, scales = decode.pack(matrix)  # (3, 128, 16), (3, 2, 16)
    steps = scales.float().repeat_interleave(decode.GROUP, 1)
    back = (packed.float() * steps).permute(0, 2, 1).reshape(48, 128)[:35]
    step = steps.permute(0, 2, 1).reshape(48, 128)[:35]
    # A scale rounded down to bfloat16 cuts the largest weight off: by 127 / 256 of a step.
    assert ((back - matrix).abs() <= 0.502 * step).all()


@pytest.mark.parametrize("config", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_tokens_are_those_of_the_plain_model(monkeypatch, model, config):
    expected = plainly(monkeypatch, model, config)
    assert len(set(expected)) > 3
    assert generate(model, [PROMPT], config)[0] == expected
    assert list(stream(model, PROMPT, config)) == expected


def test_wrong_guesses_cost_time_and_no_token(monkeypatch, model):
    expected = plainly(monkeypatch, model, SAMPLED)
    other = GPT(model.config).eval()
    wrong = decode._listed(other, decode.pack)
    monkeypatch.setattr(decode, "_rounded", lambda model: wrong)
    assert generate(model, [PROMPT], SAMPLED)[0] == expected


def test_a_trained_model_is_rounded_again(model):
    trained = GPT(model.config).eval()
    first = decode._rounded(trained)
    assert decode._rounded(trained) is first
    with torch.no_grad():
        trained.wpe.weight.add_(1)
    assert decode._rounded(trained) is not first


def test_what_the_kernels_cannot_take_goes_the_plain_way(model):
    assert decode.usable(model)
    assert not decode.usable(GPT(CONFIG.but(n_embd=96)))
    assert not decode.usable(GPT(CONFIG).double())
    with torch.autocast("cpu", torch.bfloat16):
        assert not decode.usable(model)
