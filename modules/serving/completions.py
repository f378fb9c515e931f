"""OpenAI's completions: a request becomes rows for the engine, their tokens become choices."""

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from modules.config import Config
from modules.model.generate import GenerationConfig
from modules.serving.engine import Job
from modules.serving.limits import Limits
from modules.serving.slots import Loaded
from modules.serving.text import Text, columns, entry, prompt_entries
from modules.tokenizer import Tokenizer


class StreamOptions(Config):
    """What a stream holds besides text."""

    include_usage: bool = False
    """A last chunk with the numbers of tokens."""


class CompletionRequest(Config):
    """The body of /v1/completions; what is not here is not supported and refused."""

    model: str
    """A name of /v1/models."""
    prompt: str | list[str] | list[int] | list[list[int]] = ""
    """One or more, as text or tokens."""
    max_tokens: int = Field(16, ge=0)
    """Tokens at most; 0, with echo: the prompt's log-probabilities alone."""
    temperature: float = Field(1.0, ge=0, le=2)
    """0: greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Sample from this much probability."""
    top_k: int | None = Field(None, ge=1)
    """Not OpenAI's: sample from the k likeliest."""
    n: int = Field(1, ge=1, le=16)
    """Continuations per prompt."""
    stop: str | list[str] | None = Field(None, max_length=1000)
    """Strings that end a text and are not part of it."""
    seed: int | None = None
    """Same seed and prompt, same text."""
    logprobs: int | None = Field(None, ge=0, le=20)
    """So many likeliest tokens, and the chosen one's log-probability."""
    echo: bool = False
    """Begin with the prompt."""
    stream: bool = False
    """Server-sent events, as text is made."""
    stream_options: StreamOptions | None = None
    """See there."""
    user: str | None = None
    """Ignored."""
    best_of: Literal[1] | None = None
    """Not supported."""
    presence_penalty: Literal[0] | None = None
    """Not supported."""
    frequency_penalty: Literal[0] | None = None
    """Not supported."""

    @property
    def stops(self) -> list[str]:
        """The stop strings, as a list."""
        found = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [text for text in found if text]


@dataclass(frozen=True)
class Piece:
    """What one token added to a choice."""

    index: int
    text: str
    entries: list[dict[str, Any]]
    tokens: int = 0
    finish: str | None = None


Event = Piece | Exception


class Choice:
    """One choice under way; its tokens come in the engine's thread."""

    def __init__(
        self, index: int, request: CompletionRequest, tokenizer: Tokenizer, put: Any, offset: int
    ) -> None:
        self.index, self.request, self.tokenizer, self.put = index, request, tokenizer, put
        self.text = Text(tokenizer, request.stops)
        self.read = Text(tokenizer, ())  # nothing held back: where each token begins
        self.begins, self.sent, self.count = offset, offset, 0
        self.entries: list[dict[str, Any]] = []

    def receive(self, token: int, logits: Tensor) -> bool:
        """Take a token in and hand on what is certain; True: the choice is complete."""
        self.count += 1
        if token == self.tokenizer.eot:
            return self._send(self.text.close(), "stop")
        if self.request.logprobs is not None:
            top = self.request.logprobs
            self.entries.append(entry(self.tokenizer, token, logits, top, self.begins))
        self.begins += len(self.read.push(token))
        text = self.text.push(token)
        if self.text.ended:
            return self._send(text, "stop")
        if self.count == self.request.max_tokens:
            return self._send(text + self.text.close(), "length")
        return self._send(text, None)

    def _send(self, text: str, finish: str | None) -> bool:
        self.sent += len(text)
        ended = finish == "length"  # nothing was cut
        ready = [e for e in self.entries if ended or e["text_offset"] < self.sent]
        self.entries = self.entries[len(ready) :]
        self.put(Piece(self.index, text, ready, 1, finish))
        return finish is not None


def prompts_of(
    request: CompletionRequest, loaded: Loaded, limits: Limits
) -> list[tuple[str, list[int]]]:
    """Return each prompt's text and tokens.

    Raises:
        ValueError: too many or too long; the message names limit and number.
    """
    assert loaded.model is not None
    given: Any = request.prompt
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        given = [given]
    if not given:
        raise ValueError("prompt: an empty list; give at least one prompt")
    if len(given) > limits.texts:
        raise ValueError(f"prompt: {len(given)} prompts; at most {limits.texts}")
    if request.max_tokens > limits.tokens:
        raise ValueError(f"max_tokens: {request.max_tokens}; at most {limits.tokens}")
    if request.max_tokens == 0 and not request.echo:
        raise ValueError("max_tokens: 0 gives nothing without echo")
    encode, decode = loaded.tokenizer.encode, loaded.tokenizer.decode
    pairs = [(g, encode(g)) if isinstance(g, str) else (decode(g), list(g)) for g in given]
    pairs = [(text, tokens or [loaded.tokenizer.eot]) for text, tokens in pairs]
    positions = loaded.model.config.n_positions
    for number, (_, tokens) in enumerate(pairs):
        if len(tokens) + request.max_tokens > positions:
            raise ValueError(
                f"prompt {number}: {len(tokens)} tokens and max_tokens {request.max_tokens} are "
                f"more than the model's {positions} positions"
            )
    return pairs


class Completion:
    """A request at work: its choices, and the events that they send."""

    def __init__(self, request: CompletionRequest, loaded: Loaded, limits: Limits) -> None:
        """Read the request.

        Raises:
            ValueError: it asks for too much.
        """
        self.request, self.loaded = request, loaded
        self.prompts = prompts_of(request, loaded, limits)
        self.id, self.created = f"cmpl-{secrets.token_hex(12)}", int(time.time())
        self.queue: asyncio.Queue[Event] = asyncio.Queue()
        self.jobs: list[Job] = []
        self.made = 0  # tokens

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield pieces of all choices as they are made; closing it cancels what is left.

        Raises:
            Full: there is no room for it.
        """
        loop, request = asyncio.get_running_loop(), self.request

        def put(event: Event) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self.queue.put_nowait, event)

        try:
            if request.max_tokens:
                self.jobs = self._jobs(put)
                self.loaded.engine.submit(self.jobs)
            for echoed in await self._echo():
                yield echoed
            left = len(self.jobs)
            while left:
                event = await self.queue.get()
                if isinstance(event, Exception):
                    raise event
                self.made += event.tokens
                left -= event.finish is not None
                yield event
        finally:
            for job in self.jobs:
                job.cancelled = True

    def _jobs(self, put: Any) -> list[Job]:
        request, jobs = self.request, []
        seed = secrets.randbits(32) if request.seed is None else request.seed
        how = GenerationConfig(
            max_new_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
        )
        for index in range(len(self.prompts) * request.n):
            text, tokens = self.prompts[index // request.n]
            begins = len(text) if request.echo else 0
            choice = Choice(index, request, self.loaded.tokenizer, put, begins)
            numbers = random.Random(f"{seed}/{index}")
            jobs.append(Job(tokens, how, request.max_tokens, numbers, choice.receive, fail=put))
        return jobs

    async def _echo(self) -> list[Piece]:
        """Return the prompts as first pieces, where they are asked for."""
        request, loaded = self.request, self.loaded
        if not request.echo:
            return []
        model = loaded.model
        assert model is not None
        out, finish = [], None if request.max_tokens else "length"
        for number, (text, tokens) in enumerate(self.prompts):
            entries: list[dict[str, Any]] = []
            if (top := request.logprobs) is not None:

                def known(tokens: list[int] = tokens, top: int = top) -> list[dict[str, Any]]:
                    return prompt_entries(model, loaded.tokenizer, tokens, top)

                entries = await asyncio.wrap_future(loaded.engine.call(known))
            for index in range(number * request.n, (number + 1) * request.n):
                out.append(Piece(index, text, entries, 0, finish))
        return out

    async def whole(self) -> dict[str, Any]:
        """Return the whole answer."""
        texts: dict[int, list[Piece]] = {}
        async for piece in self.pieces():
            texts.setdefault(piece.index, []).append(piece)
        merged = [
            Piece(i, "".join(p.text for p in found), [e for p in found for e in p.entries],
                  finish=found[-1].finish)
            for i, found in sorted(texts.items())
        ]  # fmt: skip
        return self.body(merged) | {"usage": self.usage()}

    def body(self, pieces: list[Piece]) -> dict[str, Any]:
        """Return pieces in OpenAI's form."""
        wanted = self.request.logprobs is not None
        choices = [
            {
                "index": piece.index,
                "text": piece.text,
                "logprobs": columns(piece.entries) if wanted else None,
                "finish_reason": piece.finish,
            }
            for piece in pieces
        ]
        about = {"id": self.id, "object": "text_completion", "created": self.created}
        return {**about, "model": self.request.model, "choices": choices}

    def usage(self) -> dict[str, int]:
        """Return the numbers of tokens."""
        read = sum(len(tokens) for _, tokens in self.prompts)
        return {
            "prompt_tokens": read,
            "completion_tokens": self.made,
            "total_tokens": read + self.made,
        }
