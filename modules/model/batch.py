"""Rows that are continued together, one token a step; they may come and go between steps.

A row's tokens depend on its prompt, its settings and its random numbers only. A few rows on a CPU
go one by one through modules/model/decode.py and come together again when there are more: the keys
and values that it leaves are those of the float32 weights.
B rows, T positions, C features, V vocabulary.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from modules.model import decode
from modules.model.gpt import GPT, Cache
from modules.model.lstm import LSTM, State
from modules.model.static import compiled_step

FEW = 2  # rows: faster one by one (12x768: 2.2 x if greedy, 1.5 x if sampled; 4 rows: 1.4, 0.7)


class Picking(Protocol):
    """How a token is picked, as in GenerationConfig."""

    @property
    def temperature(self) -> float: ...
    @property
    def top_k(self) -> int | None: ...
    @property
    def top_p(self) -> float: ...


@dataclass(eq=False)
class Row:
    """One prompt that is continued."""

    prompt: list[int]
    how: Picking
    count: int  # tokens at most
    numbers: random.Random
    receive: Callable[[int, Tensor], bool]
    """receive(token, logits (V,)): takes each token in turn; True: that was the last one."""
    tokens: list[int] = field(default_factory=list)
    done: bool = False
    uniforms: list[float] = field(default_factory=list)

    def uniform(self, step: int) -> float:
        """Return the random number in [0, 1) of a step."""
        while len(self.uniforms) <= step:
            self.uniforms.append(self.numbers.random())
        return self.uniforms[step]

    def take(self, token: int, logits: Tensor) -> None:
        """Take the next token in."""
        self.tokens.append(token)
        self.done = self.receive(token, logits) or len(self.tokens) == self.count


@dataclass(eq=False)
class _Lone:
    """A row that goes by itself: its cache, and its tokens to come."""

    row: Row
    cache: Cache
    coming: Iterator[int]
    logits: Tensor


class Batch:
    """Rows under way, and the cache of what they have read: all but each one's last token."""

    def __init__(self, model: GPT | LSTM, *, compile: bool = False) -> None:
        self.model, self.compile = model, compile
        self.rows: list[Row] = []  # which rows the cache holds, some of them done
        self._cache: Cache | State | None = None
        self._lone: list[_Lone] = []
        self._compiled: Callable[[Tensor], Tensor] | None = None

    @property
    def running(self) -> int:
        """How many rows are not done."""
        return sum(not row.done for row in self.rows)

    @torch.no_grad()
    def add(self, rows: list[Row]) -> None:
        """Read the prompts of new rows and give each its first token."""
        assert not (self.compile and self.rows), "a compiled step has its rows from the start"
        cache, last = self._read(rows)
        self._give(rows, last)
        self._together()
        old = [i for i, row in enumerate(self.rows) if not row.done]
        new = [i for i, row in enumerate(rows) if not row.done or self.compile]
        kept = [self._cache.take(old)] if self._cache is not None and old else []
        fresh = [cache if len(new) == len(rows) else cache.take(new)] if new else []
        self.rows = [self.rows[i] for i in old] + [rows[i] for i in new]
        self._hold([*kept, *fresh])

    @torch.no_grad()
    def step(self) -> None:
        """Give every row its next token."""
        self._leave()
        if not self.rows or (self.compile and not self.running):
            return
        if self._apart():
            for lone in self._lone:
                if not lone.row.done:
                    lone.row.take(next(lone.coming), lone.logits)
            return
        tokens = torch.tensor([row.tokens[-1:] for row in self.rows], device=self.model.device)
        self._give(self.rows, self._forward(tokens)[:, -1])

    def _read(self, rows: list[Row]) -> tuple[Cache | State, Tensor]:
        """Read prompts, padded on the right; return the cache and each one's last features."""
        lengths = [len(row.prompt) for row in rows]
        longest = max(lengths)
        cache = self.model.new_cache(len(rows), max(len(r.prompt) + r.count for r in rows))
        padded = torch.tensor([row.prompt + [0] * (longest - len(row.prompt)) for row in rows])
        hidden = self.model(padded.to(self.model.device), cache, lengths)  # (B, T, C)
        ends = torch.tensor(lengths, device=hidden.device) - 1
        return cache, hidden[torch.arange(len(rows), device=hidden.device), ends]

    def _give(self, rows: list[Row], features: Tensor) -> None:
        """Pick a token for each row that is not done, from its newest features (B, C)."""
        logits = self.model.logits(features).float()  # (B, V)
        alike: dict[tuple[float, int | None, float], list[int]] = {}
        for i, row in enumerate(rows):
            alike.setdefault((row.how.temperature, row.how.top_k, row.how.top_p), []).append(i)
        for group in alike.values():
            part = logits if len(group) == len(rows) else logits[group]
            uniforms = [rows[i].uniform(len(rows[i].tokens)) for i in group]
            for i, token in zip(group, pick(part, rows[group[0]].how, uniforms), strict=True):
                if not rows[i].done:
                    rows[i].take(token, logits[i])

    def _forward(self, tokens: Tensor) -> Tensor:
        """Read a token a row (B, 1); return the features (B, 1, C)."""
        cache = self._cache
        if self.compile and isinstance(self.model, GPT) and isinstance(cache, Cache):
            self._compiled = self._compiled or compiled_step(self.model, cache)
            return self._compiled(tokens)
        hidden: Tensor = self.model(tokens, cache)
        return hidden

    def _leave(self) -> None:
        """Let go of rows that are done, when they are half of all: each time is a copy.

        A row that is done and stays reads on: earlier, too, where it would leave its room.
        """
        alive = [i for i, row in enumerate(self.rows) if not row.done]
        full = self._cache is not None and self._cache.full
        if self.compile or (2 * len(alive) > len(self.rows) and not full):
            return
        self._lone = [lone for lone in self._lone if not lone.row.done]
        if self._cache is not None:
            self._hold([self._cache.take(alive)] if alive else [])
        self.rows = [self.rows[i] for i in alive]

    def _hold(self, caches: list[Cache] | list[State] | list[Cache | State]) -> None:
        self._cache = type(caches[0]).join(caches) if caches else None  # type: ignore[arg-type]

    def _apart(self) -> bool:
        """Let a few rows go one by one, where that is possible; say whether they do."""
        if self._lone:
            return True
        if self.compile or len(self.rows) > FEW or not decode.usable(self.model):
            return False
        assert isinstance(self._cache, Cache)
        self._lone = [self._start(row, self._cache.take([i])) for i, row in enumerate(self.rows)]
        self._cache = None
        return True

    def _start(self, row: Row, cache: Cache) -> _Lone:
        """Let one row go on by itself."""
        assert isinstance(self.model, GPT)
        lone = _Lone(row, cache, iter(()), torch.empty(0))
        begun = len(row.tokens)

        def choose(logits: Tensor, step: int) -> int:
            lone.logits = logits.float()
            return pick(lone.logits[None], row.how, [row.uniform(begun + step)])[0]

        last, left = row.tokens[-1], row.count - begun
        lone.coming = decode.speculate(self.model, cache, last, choose, left)
        return lone

    def _together(self) -> None:
        """Bring rows that go by themselves into one cache again."""
        if self._lone:
            self.rows = [lone.row for lone in self._lone]
            self._hold([lone.cache for lone in self._lone])
            self._lone = []


def pick(logits: Tensor, how: Picking, uniforms: list[float]) -> list[int]:
    """Return one token per row of logits (B, V); `uniforms` are one number in [0, 1) per row."""
    if how.temperature == 0:
        return logits.argmax(-1).tolist()
    k = min(how.top_k or logits.shape[-1], logits.shape[-1])
    values, ids = logits.double().topk(k)  # (B, k), falling
    p = (values / how.temperature).softmax(-1)
    sums = p.cumsum(-1)
    kept = sums - p < how.top_p  # the fewest that reach top_p: always the first
    total = sums.masked_fill(~kept, 0.0).amax(-1, keepdim=True)  # (B, 1)
    u = torch.tensor(uniforms, dtype=p.dtype, device=p.device)[:, None]
    index = torch.searchsorted(sums, u * total, right=True).clamp_(max=k - 1)  # (B, 1)
    return ids.gather(1, index).squeeze(1).tolist()
