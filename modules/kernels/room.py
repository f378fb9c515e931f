"""One piece of memory for the gradients of many weights, on loan until their turn comes.

On the way back the last weights get their gradients first. What an operation keeps for its own way
back may lie where gradients of earlier weights will be: they are made when it is done. At 12 x 768
and 1,024 tokens that is all but a half block of what is kept, and room for all logits: 235 MB.
"""

from collections.abc import Sequence
from itertools import accumulate
from math import prod
from weakref import WeakSet

import torch
from torch import Tensor

LINE = 64  # bytes that everything starts at


class Room:
    """Memory for the gradients of weights, which come in the order of the way there."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        *self.starts, size = accumulate((_lines(w.nbytes) for w in weights), initial=0)
        self._memory = torch.empty(size, dtype=torch.uint8, device=weights[0].device)
        self.size, self.free = size, True  # free: none of the gradients is there
        self.loans: WeakSet[Loan] = WeakSet()
        self._weights = [id(w) for w in weights]

    def is_of(self, weights: Sequence[Tensor]) -> bool:
        """Tell whether it was made for these weights."""
        return self._weights == [id(w) for w in weights]

    @property
    def lent(self) -> int:
        """Where the last loan ends."""
        return max((loan.stop for loan in self.loans), default=0)

    def at(self, start: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return the tensor that lies there."""
        part = self._memory.data[start : start + prod(shape) * dtype.itemsize]
        return part.view(dtype).view(*shape)  # .data: to autograd no view of the rest


class Loan:
    """What one operation keeps, below where the gradients of its own weights begin."""

    def __init__(self, room: Room | None, bound: int) -> None:
        """Take the room, None: all gets memory of its own, and the first byte out of reach."""
        self._room = room if room and room.free else None
        self._bound, self.stop = bound, 0
        if self._room:
            self._room.loans.add(self)

    @property
    def left(self) -> int:
        """Bytes there are."""
        return max(0, self._bound - self._room.lent) if self._room else 0

    def take(self, size: int) -> int | None:
        """Take so many bytes and return where they start; None: they are not left."""
        if self._room is None or _lines(size) > self.left:
            return None
        start = self._room.lent
        self.stop = start + _lines(size)
        return start

    def new(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Return memory for a tensor, of its own where it does not fit."""
        start = self.take(prod(shape) * dtype.itemsize)
        if self._room is None or start is None:
            return torch.empty(shape, dtype=dtype)
        return self._room.at(start, shape, dtype)

    def end(self) -> None:
        """Give it back.

        Raises:
            RuntimeError: it was given back before, so that what was kept there is not any more.
        """
        if self._room is None:
            return
        if self not in self._room.loans:
            raise RuntimeError("backward was called twice: what it needs is kept for one time")
        self._room.loans.discard(self)


def _lines(size: int) -> int:
    return -(-size // LINE) * LINE
