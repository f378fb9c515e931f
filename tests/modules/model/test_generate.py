"""Generation: greedy equals transformers', the cache and the batch change nothing."""

import os
from collections import Counter
from functools import partial

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from modules.model.batch import pick
from modules.model.checkpoint import save
from modules.model.generate import GenerationConfig, generate, pieces, stream
from modules.model.gpt import GPT, GPTConfig
from modules.model.lstm import LSTM, LSTMConfig
from modules.model.static import compiled_step
from modules.model.weights import export_hf
from modules.tokenizer import Tokenizer

torch.set_num_threads(1)

CONFIG = GPTConfig(vocab_size=67, n_positions=32, n_embd=24, n_layer=2, n_head=3, init_std=0.3)
GREEDY = GenerationConfig(max_new_tokens=12, temperature=0)
PROMPTS = [[1, 2, 3], [9], [30, 31, 32, 33, 34, 35, 36, 37], [5, 4, 3, 2, 1]]


@pytest.fixture(scope="module", params=["gpt2", "gpt1", "lstm"])
def model(request) -> GPT | LSTM:
    torch.manual_seed(0)
    if request.param == "lstm":
        config = LSTMConfig(vocab_size=67, n_positions=32, n_embd=24, n_units=30, init_std=0.5)
        return LSTM(config).eval()
    return GPT(CONFIG.but(norm="pre" if request.param == "gpt2" else "post")).eval()


@torch.no_grad()
def without_cache(model, prompt: list[int], n: int) -> list[int]:
    """Greedy, reading everything again for every token."""
    tokens = list(prompt)
    for _ in range(n):
        tokens.append(model.logits(model(torch.tensor([tokens]))[0, -1]).argmax().item())
    return tokens[len(prompt) :]


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_greedy_with_cache_and_padding_is_greedy_without(model, batch_size):
    got = generate(model, PROMPTS, GREEDY.but(batch_size=batch_size))
    assert got == [without_cache(model, prompt, 12) for prompt in PROMPTS]


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_greedy_equals_transformers(norm, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    ours = GPT(CONFIG.but(norm=norm)).eval()
    save(ours, tmp_path / "ours")
    export_hf(tmp_path / "ours", tmp_path / "hf")
    oracle = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    for prompt, got in zip(PROMPTS, generate(ours, PROMPTS, GREEDY), strict=True):
        ids, options = torch.tensor([prompt]), {"max_new_tokens": 12, "do_sample": False}
        expected = oracle.generate(ids, **options, eos_token_id=None, pad_token_id=0)
        assert got == expected[0, len(prompt) :].tolist()


SAMPLED = GenerationConfig(max_new_tokens=12, temperature=0.9, top_k=20, top_p=0.95, seed=3)


def test_a_sample_does_not_depend_on_its_batch_mates(model):
    together = generate(model, PROMPTS, SAMPLED)
    assert together == generate(model, PROMPTS, SAMPLED.but(batch_size=1))
    alone = [generate(model, [p], SAMPLED, keys=[i])[0] for i, p in enumerate(PROMPTS)]
    assert together == alone
    backwards = generate(model, PROMPTS[::-1], SAMPLED, keys=[3, 2, 1, 0])
    assert together == backwards[::-1]


def test_seed_and_key_name_the_sample(model):
    prompts = [[1, 2, 3]] * 3
    a, b, c = generate(model, prompts, SAMPLED)
    assert len({tuple(a), tuple(b), tuple(c)}) == 3
    assert generate(model, prompts, SAMPLED) == [a, b, c]
    assert generate(model, prompts, SAMPLED.but(seed=4)) != [a, b, c]


def test_generation_draws_no_random_numbers_of_torch(model):
    before = torch.get_rng_state()
    generate(model, PROMPTS, SAMPLED)
    assert torch.equal(before, torch.get_rng_state())


def test_long_prompts_lose_their_beginning(model):
    prompt = [i % 60 for i in range(50)]
    assert generate(model, [prompt], GREEDY) == generate(model, [prompt[-20:]], GREEDY)


def test_no_room_and_nothing_to_start_from_are_refused(model):
    with pytest.raises(ValueError, match="max_new_tokens 32 leaves no room"):
        generate(model, PROMPTS, GREEDY.but(max_new_tokens=32))
    with pytest.raises(ValueError, match="empty prompt"):
        generate(model, [[]], GREEDY)
    assert generate(model, [[]], GREEDY, eot=66) == generate(model, [[66]], GREEDY, eot=66)
    assert generate(model, [], GREEDY) == []


def test_a_stop_sequence_ends_its_row_only_and_is_left_out(model):
    whole = generate(model, PROMPTS, SAMPLED)
    stop = [whole[0][4:6], [63, 64, 65, 66, 0]]

    def cut(tokens: list[int]) -> list[int]:
        for end in range(2, len(tokens) + 1):
            if tokens[end - 2 : end] == stop[0]:
                return tokens[: end - 2]
        return tokens

    for size in (1, 16):
        got = generate(model, PROMPTS, SAMPLED.but(batch_size=size), stop=stop)
        assert got == [cut(tokens) for tokens in whole]
        assert len(got[0]) <= 4


def test_end_of_text_ends_a_row_and_is_left_out(model):
    whole = generate(model, PROMPTS, SAMPLED)
    eot = whole[2][3]
    for size in (1, 16):
        got = generate(model, PROMPTS, SAMPLED.but(batch_size=size), eot=eot)
        assert got == [t[: t.index(eot)] if eot in t else t for t in whole]


def test_dropout_is_off_while_generating_and_the_mode_comes_back():
    torch.manual_seed(0)
    model = GPT(CONFIG.but(embd_dropout=0.5, attn_dropout=0.5, resid_dropout=0.5)).train()
    assert generate(model, PROMPTS, GREEDY) == generate(model, PROMPTS, GREEDY)
    assert model.training


def draws(config: GenerationConfig, logits: list[float], n: int = 4000) -> dict[int, float]:
    uniforms = [(i + 0.5) / n for i in range(n)]
    counts = Counter(pick(torch.tensor([logits]).expand(n, -1), config, uniforms))
    return {token: count / n for token, count in sorted(counts.items())}


P = torch.tensor([0.1, 0.4, 0.2, 0.3]).log().tolist()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {0: 0.1, 1: 0.4, 2: 0.2, 3: 0.3}),
        ({"temperature": 0}, {1: 1.0}),
        ({"top_k": 2}, {1: 4 / 7, 3: 3 / 7}),
        ({"top_k": 99}, {0: 0.1, 1: 0.4, 2: 0.2, 3: 0.3}),
        ({"top_p": 0.65}, {1: 4 / 7, 3: 3 / 7}),
        ({"top_p": 0.75}, {1: 4 / 9, 2: 2 / 9, 3: 3 / 9}),
        ({"top_p": 1e-9}, {1: 1.0}),
        ({"top_k": 3, "top_p": 0.5}, {1: 4 / 7, 3: 3 / 7}),  # of what top_k left: 4/9, 7/9
        ({"temperature": 0.5}, {0: 1 / 30, 1: 16 / 30, 2: 4 / 30, 3: 9 / 30}),
    ],
)
def test_tokens_are_picked_with_the_right_probability(fields, expected):
    assert draws(GenerationConfig(**fields), P) == pytest.approx(expected, abs=1e-3)


def test_the_largest_uniform_number_picks_a_token_that_may_be_picked():
    config = GenerationConfig(top_p=0.65)
    assert pick(torch.tensor([P]), config, [1 - 2**-53]) == [3]


def test_a_stream_is_what_generate_returns(model):
    whole = generate(model, PROMPTS, SAMPLED, stop=[[3], [1, 2]], eot=0)
    for key, prompt in enumerate(PROMPTS):
        assert list(stream(model, prompt, SAMPLED, [[3], [1, 2]], 0, key)) == whole[key]
    assert not model.training


def test_pieces_are_whole_characters():
    tokenizer = Tokenizer([])
    text = "naïve 日本語 🤗 end"
    ids = tokenizer.encode(text)  # a token a byte
    assert len(ids) == len(text.encode())
    assert list(pieces(ids, tokenizer)) == list(text)
    cut = ids[:-5]  # inside the emoji
    assert "".join(pieces(cut, tokenizer)) == tokenizer.decode(cut)


@torch.no_grad()
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_compiled_step_is_compiled_once(norm):
    torch.manual_seed(0)
    model = GPT(CONFIG.but(norm=norm)).eval()
    counter = CompileCounter()
    tokens, cache = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]]), model.new_cache(2, 20)
    model(tokens, cache, [4, 2])
    plain, step = cache.take([0, 1]), compiled_step(model, cache, backend=counter)
    for token in range(10):
        new = torch.tensor([[token], [token + 9]])
        torch.testing.assert_close(step(new), model(new, plain), rtol=0, atol=1e-5)
    assert counter.frame_count == 1


@pytest.mark.parametrize("batch_size", [1, 4])
def test_compiled_tokens_are_the_same(monkeypatch, batch_size):
    torch.manual_seed(0)
    model, eager = GPT(CONFIG).eval(), partial(compiled_step, backend="eager")
    monkeypatch.setattr("modules.model.batch.compiled_step", eager)
    config = SAMPLED.but(batch_size=batch_size)
    expected = generate(model, PROMPTS, config, eot=5)
    assert generate(model, PROMPTS, config.but(compile=True), eot=5) == expected
