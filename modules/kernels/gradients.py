"""Gradients that stay where they are from step to step, and the embedding, which fills few rows.

A gradient of an embedding of 50,000 rows is 0 but for the few hundred that a step reads: only those
are cleared, measured and clipped again (modules/training/adamw.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from modules.kernels.room import Loan, Room

_in_place = False
_gradients = WeakTensorKeyDictionary()  # weight -> its gradient's memory
_rooms = WeakTensorKeyDictionary()  # weight -> the room that memory is in, where it starts there
_last: Room | None = None  # whose module is, or was last, on its way there
_rows = WeakTensorKeyDictionary()  # embedding -> rows of that memory that are not 0, its version


@contextmanager
def in_place_gradients(wanted: bool) -> Iterator[None]:
    """Put gradients straight into `.grad`, added to what is there: no second copy, no extra pass.

    Those of the output matrix are there after the forward pass already, so each loss must be
    followed by its backward pass, unscaled. Not with DDP or FSDP, which wait for autograd to hand
    the gradients over.
    """
    global _in_place, _last
    before, _in_place = _in_place, wanted
    try:
        yield
    finally:
        _in_place, _last = before, None


def embed(matrix: Tensor, tokens: Tensor) -> Tensor:
    """Return rows (..., C) of a matrix (V, C)."""
    return _Embedding.apply(matrix, tokens)


def embeds(matrix: Tensor) -> bool:
    """Tell whether `embed` is worth it for this matrix."""
    return stays(matrix) and matrix.device.type == "cpu" and not torch.compiler.is_compiling()


def rows_with_gradient(weight: Tensor) -> Tensor | None:
    """Return the rows (N,) that alone may have a gradient, each once; None: all may."""
    return None if weight.grad is None else _known(weight)


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor, tokens: Tensor) -> Tensor:
        ctx.matrix = matrix
        ctx.save_for_backward(tokens)
        return matrix.index_select(0, tokens.flatten()).view(*tokens.shape, -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, None]:
        (tokens,) = ctx.saved_tensors
        tokens, matrix = tokens.flatten(), ctx.matrix
        known, in_place = _known(matrix), stays(matrix)
        grad, there = place(matrix)  # the loss has put its part there, if there is one
        rows: Tensor | None = tokens.unique()
        if there:
            rows = None if known is None else torch.cat([known, tokens]).unique()
        elif known is None or not in_place:
            grad.zero_()
        else:  # what the last step has left
            grad.index_fill_(0, known, 0)
        grad.index_add_(0, tokens, grads[0].reshape(len(tokens), -1))
        _rows[matrix] = (rows if in_place else None, grad._version)
        return None if in_place else grad, None


def gather(module: nn.Module) -> None:
    """Let the gradients of a module that begins its way there have one room, lent out meanwhile.

    Its weights must be used in their order, each by one operation, which asks for a `loan`.
    """
    global _last
    weights = [weight for weight in module.parameters() if stays(weight)]
    if not weights:
        return
    room, _ = _rooms.get(weights[0], (None, 0))
    if room is None or not room.is_of(weights):
        room = Room(weights)
        for weight, start in zip(weights, room.starts, strict=True):
            _rooms[weight] = room, start
            _gradients[weight] = room.at(start, weight.shape, weight.dtype)
    room.free = all(weight.grad is None for weight in weights)
    _last = room


def loan(weight: Tensor) -> Loan:
    """Return where the operation whose first weight this is may keep what its way back needs."""
    return Loan(*_rooms.get(weight, (None, 0))) if stays(weight) else Loan(None, 0)


def loan_of_rest() -> Loan:
    """Return all that is left for now of the room of the last module that was gathered."""
    return Loan(_last, _last.size if _last else 0)


def stays(weight: Tensor) -> bool:
    """Tell whether a weight's gradient is put in its place; a frozen one has none."""
    return _in_place and weight.is_leaf and weight.requires_grad


def place(weight: Tensor) -> tuple[Tensor, bool]:
    """Return where a weight's gradient goes, and whether it is added to what is there."""
    if not stays(weight):
        return torch.empty_like(weight), False
    if weight.grad is not None:
        return weight.grad, True
    room, start = _rooms.get(weight, (None, 0))
    if room and start < room.lent:  # another graph keeps something there
        weight.grad = torch.empty_like(weight)
        return weight.grad, False
    if weight not in _gradients:
        _gradients[weight] = torch.empty_like(weight)
    weight.grad = _gradients[weight]
    return weight.grad, False


def all_rows(weight: Tensor) -> None:
    """Note that every row of a weight gets a gradient."""
    _rows.pop(weight, None)


def _known(weight: Tensor) -> Tensor | None:
    """Return the rows of an embedding's kept gradient that are not 0; None: any may be."""
    memory, (rows, version) = _gradients.get(weight), _rows.get(weight, (None, 0))
    if memory is None or memory._version != version:
        return None  # changed by others since
    return rows if weight.grad is None or weight.grad is memory else None
