"""Continue prompts: greedy, temperature, top-k and top-p, batched over prompts of any length.

A row's tokens depend on its prompt, the seed and its key only: each row has a random stream of its
own, so batch size and batch mates change nothing (but for rounding where two tokens all but tie).
A few rows on a CPU go one by one through modules/model/decode.py, which gives the same tokens.
B rows, T positions, V vocabulary.
"""

import random
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from modules.config import Config
from modules.model import decode
from modules.model.beam import beam_search
from modules.model.endings import cut_stop, until
from modules.model.gpt import GPT, Cache
from modules.model.lstm import LSTM, State
from modules.model.static import compiled_step
from modules.tokenizer import Tokenizer

FEW = 2  # rows: faster one by one (12x768: 2.2 x if greedy, 1.5 x if sampled; 4 rows: 1.4, 0.7)


class GenerationConfig(Config):
    """How the next token is picked, and how many."""

    max_new_tokens: int = Field(100, ge=1)
    """Tokens per prompt, unless a stop sequence or end-of-text comes first."""
    temperature: float = Field(1.0, ge=0)
    """Divides the logits; 0 takes the most probable token (greedy)."""
    top_k: int | None = Field(None, ge=1)
    """Sample among the k most probable tokens (GPT-2 paper: 2 for summaries, 40 for samples)."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Sample among the fewest tokens whose probabilities reach this sum."""
    seed: int = 0
    """Together with a prompt's key it fixes the sample."""
    batch_size: int = Field(16, ge=1)
    """Prompts continued at once; changes memory and speed, not the result."""
    num_beams: int = Field(1, ge=1)
    """More than one: beam search, with temperature 0."""
    length_penalty: float = 1.0
    """Beams are ranked by log-probability over length to this power."""
    compile: bool = False
    """Compile a GPT's step for one token: a slow start, then fast tokens on CUDA."""

    @model_validator(mode="after")
    def _beams_do_not_sample(self) -> Self:
        if self.num_beams > 1 and self.temperature > 0:
            raise ValueError(f"num_beams {self.num_beams} needs temperature 0: beams do not sample")
        return self


@torch.no_grad()
def generate(
    model: GPT | LSTM,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    stop: Sequence[Sequence[int]] | None = None,
    eot: int | None = None,
    keys: Sequence[int] | None = None,
) -> list[list[int]]:
    """Return the new tokens of each prompt, without the stop sequence or end-of-text that ended it.

    Args:
        model: any decoder; it is put in evaluation mode while it generates.
        prompts: token ids; one that leaves no room for max_new_tokens loses its beginning, an
            empty one starts from end-of-text.
        config: how to pick.
        stop: token sequences that end a row when it has generated them.
        eot: the end-of-text id; None: nothing ends a row but `stop` and the length.
        keys: one number per prompt that names its random stream; its index by default.

    Raises:
        ValueError: no room for a prompt, or an empty prompt without end-of-text.
    """
    ready = [_fit(model, list(prompt), config, eot) for prompt in prompts]
    keys = range(len(ready)) if keys is None else keys
    streams = [random.Random(f"{config.seed}/{key}") for key in keys]
    assert len(streams) == len(ready), "one key per prompt"
    stops = [list(ending) for ending in stop or () if len(ending)]
    order = sorted(range(len(ready)), key=lambda i: -len(ready[i]))  # like lengths together
    out: list[list[int]] = [[] for _ in ready]
    training = model.training
    model.eval()
    for start in range(0, len(order), config.batch_size):
        rows = order[start : start + config.batch_size]
        if config.num_beams > 1 or (
            len(rows) <= FEW and not config.compile and decode.usable(model)
        ):
            for i in rows:
                out[i] = list(_row(model, ready[i], config, streams[i], stops, eot))
            continue
        batch = _Batch(model, [ready[i] for i in rows], [streams[i] for i in rows], config)
        for i, tokens in zip(rows, batch.run(stops, eot), strict=True):
            out[i] = tokens
    model.train(training)
    return out


@torch.no_grad()
def stream(
    model: GPT | LSTM,
    prompt: Sequence[int],
    config: GenerationConfig,
    stop: Sequence[Sequence[int]] | None = None,
    eot: int | None = None,
    key: int = 0,
) -> Iterator[int]:
    """Yield the tokens that `generate` returns for this prompt and key, once they are certain.

    Raises:
        ValueError: no room for the prompt, or an empty prompt without end-of-text.
    """
    ready = _fit(model, list(prompt), config, eot)
    stops = [list(ending) for ending in stop or () if len(ending)]
    training = model.training
    model.eval()
    try:
        numbers = random.Random(f"{config.seed}/{key}")
        yield from _row(model, ready, config, numbers, stops, eot)
    finally:
        model.train(training)


def pieces(tokens: Iterable[int], tokenizer: Tokenizer) -> Iterator[str]:
    """Yield the text of tokens piece by piece, each of whole characters; together `decode`'s."""
    decoder = getincrementaldecoder("utf-8")("replace")
    for token in tokens:
        if text := decoder.decode(tokenizer.decode_bytes([token])):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text


def _row(
    model: GPT | LSTM,
    prompt: list[int],
    config: GenerationConfig,
    numbers: random.Random,
    stops: list[list[int]],
    eot: int | None,
) -> Iterator[int]:
    """Yield the tokens that continue one prompt."""
    if config.num_beams == 1:
        return until(_tokens(model, prompt, config, numbers), stops, eot)

    def ends(new: list[int]) -> bool:
        return new[-1] == eot or any(new[-len(ending) :] == ending for ending in stops)

    beams, penalty = config.num_beams, config.length_penalty
    best = beam_search(model, prompt, config.max_new_tokens, beams, penalty, ends)
    return until(iter(best), stops, eot)


def _tokens(
    model: GPT | LSTM, prompt: list[int], config: GenerationConfig, numbers: random.Random
) -> Iterator[int]:
    """Yield max_new_tokens tokens after one prompt."""
    uniforms = [numbers.random() for _ in range(config.max_new_tokens)]

    def choose(logits: Tensor, step: int) -> int:
        return pick(logits[None].float(), config, [uniforms[step]])[0]

    cache = model.new_cache(1, len(prompt) + config.max_new_tokens)
    hidden = model(torch.tensor([prompt], device=model.device), cache)  # (1, T, C)
    token = choose(model.logits(hidden[0, -1]), 0)
    yield token
    advance: Callable[[Tensor], Tensor] = partial(model, cache=cache)
    if isinstance(cache, Cache) and isinstance(model, GPT):
        if config.compile:
            advance = compiled_step(model, cache)
        elif decode.usable(model):
            later = config.max_new_tokens - 1
            yield from decode.speculate(model, cache, token, lambda x, i: choose(x, i + 1), later)
            return
    for step in range(1, config.max_new_tokens):
        hidden = advance(torch.tensor([[token]], device=model.device))
        token = choose(model.logits(hidden[0, -1]), step)
        yield token


def pick(logits: Tensor, config: GenerationConfig, uniforms: list[float]) -> list[int]:
    """Return one token per row of logits (B, V); `uniforms` are one number in [0, 1) per row."""
    if config.temperature == 0:
        return logits.argmax(-1).tolist()
    k = min(config.top_k or logits.shape[-1], logits.shape[-1])
    values, ids = logits.double().topk(k)  # (B, k), falling
    p = (values / config.temperature).softmax(-1)
    sums = p.cumsum(-1)
    kept = sums - p < config.top_p  # the fewest that reach top_p: always the first
    total = sums.masked_fill(~kept, 0.0).amax(-1, keepdim=True)  # (B, 1)
    u = torch.tensor(uniforms, dtype=p.dtype, device=p.device)[:, None]
    index = torch.searchsorted(sums, u * total, right=True).clamp_(max=k - 1)  # (B, 1)
    return ids.gather(1, index).squeeze(1).tolist()


class _Batch:
    """Rows that are continued together; finished ones leave when half of the rows are done."""

    def __init__(
        self,
        model: GPT | LSTM,
        prompts: list[list[int]],
        streams: list[random.Random],
        config: GenerationConfig,
    ) -> None:
        self.model, self.config = model, config
        self.prompts, self.streams = prompts, streams
        self.new: list[list[int]] = [[] for _ in prompts]
        self.rows = list(range(len(prompts)))  # which rows the cache holds

    def run(self, stops: list[list[int]], eot: int | None) -> list[list[int]]:
        """Return the new tokens of each row."""
        done: set[int] = set()
        compiled = None
        cache, last = self._read_prompts()  # last: features (B, C) of each row's newest token
        for step in range(self.config.max_new_tokens):
            uniforms = [self.streams[row].random() for row in self.rows]
            ids = pick(self.model.logits(last).float(), self.config, uniforms)
            done |= {row for row, i in zip(self.rows, ids, strict=True) if i == eot}
            for row, i in zip(self.rows, ids, strict=True):
                if row not in done:
                    self.new[row].append(i)
                    if cut_stop(self.new[row], stops):
                        done.add(row)
            if len(done) == len(self.prompts) or step + 1 == self.config.max_new_tokens:
                break
            alive = [i for i, row in enumerate(self.rows) if row not in done]
            if self.config.compile and isinstance(self.model, GPT) and isinstance(cache, Cache):
                compiled = compiled or compiled_step(self.model, cache)
                last = compiled(torch.tensor(ids, device=self.model.device)[:, None])[:, -1]
                continue
            if 2 * len(alive) <= len(self.rows):
                cache, ids = cache.take(alive), [ids[i] for i in alive]
                self.rows = [self.rows[i] for i in alive]
            last = self._forward(torch.tensor(ids)[:, None], cache)[:, -1]
        return self.new

    def _read_prompts(self) -> tuple[Cache | State, Tensor]:
        """Read all prompts, padded on the right; return the cache and each row's last features."""
        lengths = [len(prompt) for prompt in self.prompts]
        longest = max(lengths)
        cache = self.model.new_cache(len(lengths), longest + self.config.max_new_tokens)
        padded = torch.tensor([p + [0] * (longest - len(p)) for p in self.prompts])  # (B, T)
        hidden = self._forward(padded, cache, lengths)  # (B, T, C)
        ends = torch.tensor(lengths, device=hidden.device) - 1
        return cache, hidden[torch.arange(len(lengths), device=hidden.device), ends]

    def _forward(
        self, tokens: Tensor, cache: Cache | State, lengths: list[int] | None = None
    ) -> Tensor:
        hidden: Tensor = self.model(tokens.to(self.model.device), cache, lengths)
        return hidden


def _fit(
    model: GPT | LSTM, prompt: list[int], config: GenerationConfig, eot: int | None
) -> list[int]:
    """Return the end of a prompt that fits; an empty prompt becomes end-of-text."""
    room = model.config.n_positions - config.max_new_tokens
    if room < 1:
        raise ValueError(
            f"max_new_tokens {config.max_new_tokens} leaves no room for a prompt: "
            f"the model has {model.config.n_positions} positions"
        )
    if prompt:
        return prompt[-room:]
    if eot is None:
        raise ValueError("an empty prompt needs eot, the token to start from")
    return [eot]
