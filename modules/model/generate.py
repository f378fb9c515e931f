"""Continue prompts: greedy, temperature, top-k and top-p, batched over prompts of any length.

A row's tokens depend on its prompt, the seed and its key only: each row has a random stream of its
own, so batch size and batch mates change nothing (but for rounding where two tokens all but tie).
A few rows on a CPU go one by one through modules/model/decode.py, which gives the same tokens.
B rows, T positions, V vocabulary.
"""

import random
from collections.abc import Iterator, Sequence

import torch
from pydantic import Field
from torch import Tensor

from modules.config import Config
from modules.model import decode
from modules.model.gpt import GPT, Cache
from modules.model.lstm import LSTM, State

FEW = 4  # rows: up to here one by one is faster than together (measured at 12x768)


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
        if len(rows) <= FEW and decode.usable(model):
            for i in rows:
                out[i] = list(_until(_tokens(model, ready[i], config, streams[i]), stops, eot))
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
        yield from _until(_tokens(model, ready, config, numbers), stops, eot)
    finally:
        model.train(training)


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
    if isinstance(cache, Cache) and isinstance(model, GPT) and decode.usable(model):
        later = config.max_new_tokens - 1
        yield from decode.speculate(model, cache, token, lambda x, i: choose(x, i + 1), later)
        return
    for step in range(1, config.max_new_tokens):
        hidden = model(torch.tensor([[token]], device=model.device), cache)
        token = choose(model.logits(hidden[0, -1]), step)
        yield token


def _until(tokens: Iterator[int], stops: list[list[int]], eot: int | None) -> Iterator[int]:
    """Yield tokens up to end-of-text or a stop sequence; hold back what may become one."""
    held: list[int] = []
    for token in tokens:
        if token == eot:
            break
        held.append(token)
        if _cut_stop(held, stops):
            break
        ready = len(held) - _begun(held, stops)
        yield from held[:ready]
        del held[:ready]
    yield from held


def _begun(tokens: list[int], stops: list[list[int]]) -> int:
    """Return how many of the last tokens are the longest beginning of a stop sequence."""
    lengths = range(min(len(tokens), max(map(len, stops), default=1) - 1), 0, -1)
    return next((n for n in lengths if any(tokens[-n:] == s[:n] for s in stops)), 0)


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
        cache, last = self._read_prompts()  # last: features (B, C) of each row's newest token
        for step in range(self.config.max_new_tokens):
            uniforms = [self.streams[row].random() for row in self.rows]
            ids = pick(self.model.logits(last).float(), self.config, uniforms)
            done |= {row for row, i in zip(self.rows, ids, strict=True) if i == eot}
            for row, i in zip(self.rows, ids, strict=True):
                if row not in done:
                    self.new[row].append(i)
                    if _cut_stop(self.new[row], stops):
                        done.add(row)
            if len(done) == len(self.prompts) or step + 1 == self.config.max_new_tokens:
                break
            alive = [i for i, row in enumerate(self.rows) if row not in done]
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


def _cut_stop(tokens: list[int], stops: list[list[int]]) -> bool:
    """Remove a stop sequence from the end of `tokens`; True where there was one."""
    for ending in stops:
        if tokens[-len(ending) :] == ending:
            del tokens[-len(ending) :]
            return True
    return False
