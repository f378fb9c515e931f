"""Continue prompts: greedy, temperature, top-k and top-p, batched over prompts of any length.

A row's tokens depend on its prompt, the seed and its key only: each row has a random stream of its
own, so batch size and batch mates change nothing (but for rounding where two tokens all but tie).
The loop over tokens is modules/model/batch.py.
"""

import random
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from modules.config import Config
from modules.model.batch import Batch, Row
from modules.model.beam import beam_search
from modules.model.endings import cut_stop, until
from modules.model.gpt import GPT
from modules.model.lstm import LSTM
from modules.tokenizer import Tokenizer


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
        if config.num_beams > 1:
            for i in rows:
                out[i] = _beams(model, ready[i], config, stops, eot)
            continue
        batch = Batch(model, compile=config.compile)
        batch.add([_row(ready[i], config, streams[i], _collect(out[i], stops, eot)) for i in rows])
        while batch.running:
            batch.step()
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
        if config.num_beams > 1:
            yield from _beams(model, ready, config, stops, eot)
            return
        tokens = _tokens(model, _row(ready, config, numbers), config.compile)
        yield from until(tokens, stops, eot)
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
    prompt: list[int],
    config: GenerationConfig,
    numbers: random.Random,
    receive: Callable[[int, Tensor], bool] = lambda token, logits: False,
) -> Row:
    """Return a row for a batch."""
    return Row(prompt, config, config.max_new_tokens, numbers, receive)


def _collect(
    new: list[int], stops: list[list[int]], eot: int | None
) -> Callable[[int, Tensor], bool]:
    """Return what puts a row's tokens into `new` until they end."""

    def receive(token: int, logits: Tensor) -> bool:
        if token == eot:
            return True
        new.append(token)
        return cut_stop(new, stops)

    return receive


def _tokens(model: GPT | LSTM, row: Row, compile: bool) -> Iterator[int]:
    """Yield the tokens of one row."""
    batch = Batch(model, compile=compile)
    batch.add([row])
    yield row.tokens[-1]
    while not row.done:
        batch.step()
        yield row.tokens[-1]


def _beams(
    model: GPT | LSTM,
    prompt: list[int],
    config: GenerationConfig,
    stops: list[list[int]],
    eot: int | None,
) -> list[int]:
    """Return what beam search finds, without the ending."""

    def ends(new: list[int]) -> bool:
        return new[-1] == eot or any(new[-len(ending) :] == ending for ending in stops)

    beams, penalty = config.num_beams, config.length_penalty
    best = beam_search(model, prompt, config.max_new_tokens, beams, penalty, ends)
    return list(until(iter(best), stops, eot))


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
