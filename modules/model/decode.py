"""Decode one row on a CPU at the speed of int8 weights, with the tokens of float32 weights.

Speculative decoding (arXiv:2211.17192, section 2) with the model as its own draft: int8 weights
guess the next tokens one by one, then float32 weights read all guesses at once and pick again with
the same random numbers. The picks count until one differs from its guess, and the keys and values
that remain are float32's. So rounding can cost time, never a token.
The products are in modules/kernels/decode.cpp; the plain twin is modules/model/gpt.py.
"""

import ctypes
from collections.abc import Callable, Iterator
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from modules.kernels.build import element, library
from modules.model.gpt import GPT, Block, Cache

PANEL, GROUP = 16, 64  # as in decode.cpp
BLOCK = 30  # tokens verified at once, a multiple of decode.cpp's TILE
SHORTEST = 4  # so many after guesses went wrong

Choose = Callable[[Tensor, int], int]
"""choose(logits (V,), step): the token picked for that step; the same for the same logits."""

_packed: WeakKeyDictionary[GPT, tuple[object, list[Tensor | None]]] = WeakKeyDictionary()


def usable(model: nn.Module) -> bool:
    """Tell whether this model can be decoded here: a float32 GPT on a CPU with AVX512-BF16."""
    return (
        isinstance(model, GPT)
        and model.device.type == "cpu"
        and {p.dtype for p in model.parameters()} == {torch.float32}
        and model.config.n_embd % GROUP == 0
        and not torch.is_autocast_enabled("cpu")
        and element() == torch.bfloat16
    )


def speculate(model: GPT, cache: Cache, token: int, choose: Choose, count: int) -> Iterator[int]:
    """Yield the `count` tokens that follow `token`, which the one row of `cache` does not hold yet.

    The row's keys and values are float32's for as many tokens as cache.lengths says.
    """
    exact, draft = _Forward(model, cache, _own(model)), _Forward(model, cache, _rounded(model))
    step, size = 0, BLOCK // 2
    while step < count:
        tokens = [token]
        start = cache.lengths[0]
        for i in range(min(size, count - step) - 1):
            tokens.append(choose(draft(tokens[-1:], start + i)[0], step + i))
        for guess, logits in zip([*tokens[1:], None], exact(tokens, start), strict=True):
            token = choose(logits, step)
            step += 1
            cache.lengths[0] += 1
            yield token
            if token != guess:
                break
        size = min(BLOCK, 2 * size) if guess is None else max(SHORTEST, size // 2)


class _Forward:
    """The forward pass over one row's cache with one kind of weights."""

    def __init__(self, model: GPT, cache: Cache, weights: list[Tensor | None]) -> None:
        config, vocab = model.config, model.config.vocab_size
        assert cache.keys.shape[1] == 1, "one row"
        assert cache.keys.dtype == torch.float32
        assert cache.keys.is_contiguous() and cache.values.is_contiguous()
        self.model, self.cache, self.weights = model, cache, weights
        self.pointers = (ctypes.c_void_p * len(weights))(*map(_address, weights))
        self.x = torch.zeros(BLOCK, config.n_embd)
        self.work = torch.zeros(BLOCK, 9 * config.n_embd)
        self.logits = torch.zeros(BLOCK, -(-vocab // PANEL) * PANEL)
        heads, pre = config.n_head, config.norm == "pre"
        self.sizes = (config.n_layer, heads, config.n_embd // heads, vocab, int(pre))

    def __call__(self, tokens: list[int], start: int) -> Tensor:
        """Return the logits (m, V) of m tokens after `start` others, until the next call."""
        model, m = self.model, len(tokens)
        self.x[:m] = model.wte.weight[tokens] + model.wpe.weight[start : start + m]
        tensors = (self.x, self.cache.keys, self.cache.values, self.logits, self.work)
        numbers = (m, start, self.cache.keys.shape[3], *self.sizes)
        found = library()
        assert found is not None
        arguments = map(ctypes.c_void_p, map(_address, tensors))
        found["decode_forward"](self.pointers, *arguments, *map(ctypes.c_long, numbers))
        return self.logits[:m, : model.config.vocab_size]


def _own(model: GPT) -> list[Tensor | None]:
    """Return the model's weights in the order of decode.cpp."""
    return _listed(model, lambda matrix: (matrix, None))


def _rounded(model: GPT) -> list[Tensor | None]:
    """Return the same with int8 matrices, made once for a model as long as its weights are.

    Weights that change behind PyTorch's back make worse guesses, not other tokens.
    """
    state = [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in model.parameters()]
    kept = _packed.get(model)
    if kept is None or kept[0] != state:
        kept = _packed[model] = (state, _listed(model, pack))
    return kept[1]


def pack(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return a matrix (n, k) as int8 in panels (n / 16, k, 16) and its scales (n / 16, k / 64, 16).

    Rows are filled up to whole panels.
    """
    n, k = matrix.shape
    panels = -(-n // PANEL)
    out = torch.empty(panels, k, PANEL, dtype=torch.int8)
    scales = torch.empty(panels, k // GROUP, PANEL, dtype=torch.bfloat16)
    found = library()
    assert found is not None
    arguments = map(ctypes.c_void_p, map(_address, (matrix, out, scales)))
    found["decode_pack"](*arguments, ctypes.c_long(n), ctypes.c_long(k))
    return out, scales


def _listed(
    model: GPT, turn: Callable[[Tensor], tuple[Tensor, Tensor | None]]
) -> list[Tensor | None]:
    weights: list[Tensor | None] = []
    for block in model.h:
        assert isinstance(block, Block)
        weights += [*block.ln_1.parameters(), *block.ln_2.parameters()]
        for linear in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj):
            weights += [*turn(linear.weight), linear.bias]
    weights += [*model.ln_f.parameters()] or [None, None]  # post-norm has none
    return [*weights, *turn(model.output_matrix), None]


def _address(tensor: Tensor | None) -> int | None:
    assert tensor is None or tensor.is_contiguous(), "kernels take contiguous tensors"
    return None if tensor is None else tensor.data_ptr()
