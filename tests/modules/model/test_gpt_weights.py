"""The decoder's weights: as many as in the papers, drawn as they say, and new tokens."""

import pytest
import torch

from modules.model.gpt import GPT, GPTConfig
from tests.modules.model.small_gpt import SMALL, random_model, random_tokens

torch.set_num_threads(1)

GPT1 = GPTConfig(vocab_size=40478, n_positions=512, norm="post")  # gpt1.md section 1
GPT2 = GPTConfig()
MEDIUM = GPT2.but(n_layer=24, n_embd=1024, n_head=16)  # gpt2.md section 1
LARGE = GPT2.but(n_layer=36, n_embd=1280, n_head=20)
XL = GPT2.but(n_layer=48, n_embd=1600, n_head=25)


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


def test_only_gpt2_has_a_final_norm():
    assert not [n for n in GPT(SMALL.but(norm="post")).state_dict() if n.startswith("ln_f")]
    assert [n for n in GPT(SMALL).state_dict() if n.startswith("ln_f")]


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
