"""Beam search finds transformers' tokens; stop sequences end a hypothesis."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import pytest
import torch

from modules.model.checkpoint import save
from modules.model.generate import GenerationConfig, generate, stream
from modules.model.gpt import GPT, GPTConfig
from modules.model.lstm import LSTM, LSTMConfig
from modules.model.weights import export_hf

torch.set_num_threads(1)

CONFIG = GPTConfig(vocab_size=41, n_positions=32, n_embd=24, n_layer=2, n_head=3, init_std=0.3)
BEAMS = GenerationConfig(max_new_tokens=12, temperature=0, num_beams=4)
PROMPTS = [[1, 2, 3], [9], [30, 31, 32, 33, 34, 35], [5, 4]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Our model and transformers' copy of it."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("pair")
    torch.manual_seed(3)
    ours = GPT(CONFIG).eval()
    save(ours, folder / "ours")
    export_hf(folder / "ours", folder / "hf")
    return ours, transformers.AutoModelForCausalLM.from_pretrained(folder / "hf").eval()


@pytest.mark.parametrize("eot", [None, 7, 19])
@pytest.mark.parametrize(("beams", "penalty"), [(2, 1.0), (4, 0.0), (4, 2.0), (7, 1.0), (3, -1.0)])
def test_tokens_are_transformers(pair, beams, penalty, eot):
    ours, oracle = pair
    config = BEAMS.but(num_beams=beams, length_penalty=penalty)
    got = generate(ours, PROMPTS, config, eot=eot)
    options = {"max_new_tokens": 12, "num_beams": beams, "length_penalty": penalty}
    options |= {"do_sample": False, "eos_token_id": eot, "pad_token_id": 0}
    for prompt, new in zip(PROMPTS, got, strict=True):
        ids = torch.tensor([prompt])
        found = oracle.generate(ids, attention_mask=torch.ones_like(ids), **options)
        expected = found[0, len(prompt) :].tolist()
        assert new == (expected[: expected.index(eot)] if eot in expected else expected)


def test_hypotheses_end_early_in_this_table(pair):
    """Else the comparison above would say nothing about finished hypotheses."""
    lengths = {len(t) for eot in range(41) for t in generate(pair[0], PROMPTS[:1], BEAMS, eot=eot)}
    assert len(lengths) > 3


@torch.no_grad()
def score(model, prompt: list[int], new: list[int]) -> float:
    logits = model.logits(model(torch.tensor([prompt + new])))[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(new)[:, None]).sum().item()


def test_an_lstm_searches_too_and_finds_no_worse_than_greedy():
    torch.manual_seed(0)
    config = LSTMConfig(vocab_size=41, n_positions=32, n_embd=24, n_units=30, init_std=0.5)
    model = LSTM(config).eval()
    greedy = generate(model, PROMPTS, BEAMS.but(num_beams=1))
    best = generate(model, PROMPTS, BEAMS.but(num_beams=16))
    for prompt, one, other in zip(PROMPTS, greedy, best, strict=True):
        assert score(model, prompt, other) >= score(model, prompt, one) - 1e-5


def test_stop_sequences_end_a_hypothesis(pair):
    free = generate(pair[0], PROMPTS[:1], BEAMS)[0]
    stopped = generate(pair[0], PROMPTS[:1], BEAMS.but(length_penalty=0), stop=[free[3:5]])[0]
    assert free[3:5] not in [stopped[i : i + 2] for i in range(len(stopped))]
    assert list(stream(pair[0], PROMPTS[0], BEAMS)) == free


def test_beams_do_not_sample():
    with pytest.raises(ValueError, match="needs temperature 0"):
        GenerationConfig(num_beams=2)
