"""A cache of fixed shapes: what a compiled step or a CUDA graph can use for every token.

The lengths are a tensor, attention reads the whole room under a mask, and nothing in Python changes
from token to token, so a step is compiled once. B rows, N positions, L layers, H heads, D features.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from modules.model.gpt import GPT, Cache


class StaticCache:
    """The keys and values of a Cache that takes one token a row from now on."""

    def __init__(self, cache: Cache) -> None:
        self.keys, self.values = cache.keys, cache.values  # (L, B, H, N, D) each
        device = cache.keys.device
        self.lengths = torch.tensor(cache.lengths, device=device)  # (B,)
        self.rows = torch.arange(len(cache.lengths), device=device)
        self.slots = torch.arange(cache.keys.shape[3], device=device)
        self.mask: Tensor | None = None

    def open(self, n: int) -> Tensor:
        """Make ready for a token a row; return their positions (B, 1)."""
        assert n == 1, "one token a row"
        self.mask = (self.slots <= self.lengths[:, None])[:, None, None]  # (B, 1, 1, N)
        return self.lengths[:, None].clone()

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values (B, H, 1, D); return the whole room."""
        for store, new in ((self.keys[layer], k), (self.values[layer], v)):
            store[self.rows, :, self.lengths] = new[:, :, 0].to(store.dtype)
        return self.keys[layer].to(k), self.values[layer].to(v)

    def close(self, lengths: list[int] | None) -> None:
        """Count the new tokens."""
        self.lengths += 1


def compiled_step(
    model: GPT, cache: Cache, backend: str | Callable[..., Any] = "inductor"
) -> Callable[[Tensor], Tensor]:
    """Return step(tokens (B, 1)) -> features (B, 1, C), compiled once for all of a batch's tokens.

    On CUDA it is one graph per token ("reduce-overhead").
    """
    static = StaticCache(cache)
    mode = "reduce-overhead" if model.device.type == "cuda" and backend == "inductor" else None

    def step(tokens: Tensor) -> Tensor:
        hidden: Tensor = model(tokens, static)
        return hidden

    compiled: Callable[[Tensor], Tensor] = torch.compile(step, backend=backend, mode=mode)
    return compiled
