"""AdamW whose clipping and update are one pass over each weight where our kernels take it.

Fine-tuning reads a few hundred rows of an embedding of 50,000 in a step, and the embedding is most
of a small model: rows without gradient are not read, and those that never had one only decay. The
numbers are those of torch.optim.AdamW, which also takes over wherever the kernel does not fit.
"""

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from modules.kernels.build import library
from modules.kernels.gradients import rows_with_gradient
from modules.training.ranks import whole

AWAKE, GRADIENT = 1, 2  # kinds of rows, as in modules/kernels/adamw.cpp; 0: asleep


Kinds = tuple[Tensor, Tensor, int, Tensor]  # moments, their changes by others, kinds of rows


class _Weight(ctypes.Structure):
    """A weight as modules/kernels/adamw.cpp has it."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("p", "m", "v", "g", "kinds")),
        *((name, ctypes.c_long) for name in ("rows", "width")),
        *((name, ctypes.c_float) for name in ("size", "root")),
    )


class AdamW(torch.optim.AdamW):
    """torch.optim.AdamW, fused, with `scale` for gradients that are to be clipped."""

    scale = 1.0  # what the step multiplies gradients by

    def __init__(self, params: Any, **defaults: Any) -> None:
        """Take parameter groups and lr, betas, eps, weight_decay."""
        super().__init__(params, fused=True, **defaults)
        self._kinds: dict[Tensor, Kinds] = {}

    @property
    def own(self) -> bool:
        """Whether our kernel does the step: plain float32 on a CPU."""
        trained = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        return all(map(_fits, trained)) and library() is not None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Apply one update to every parameter that has a gradient."""
        if not self.own:
            assert self.scale == 1.0, "PyTorch's own step takes gradients as they are"
            super().step(closure)
            return
        assert closure is None, "closures are not used here"
        for group in self.param_groups:
            self._update(group, [p for p in group["params"] if p.grad is not None])

    def _update(self, group: dict[str, Any], trained: Sequence[Tensor]) -> None:
        weights = (_Weight * len(trained))(*(self._weight(p, group) for p in trained))
        found = library()
        assert found is not None
        rule = (self.scale, 1 - group["lr"] * group["weight_decay"], *group["betas"], group["eps"])
        found.adamw(weights, ctypes.c_long(len(trained)), *map(ctypes.c_float, rule))

    def _weight(self, p: Tensor, group: dict[str, Any]) -> _Weight:
        """Return what the kernel has to know of a weight, one step on."""
        state = self.state[p]
        if not state:  # as torch.optim.AdamW has it
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        state["step"] += 1
        t, (b1, b2) = float(state["step"]), group["betas"]
        assert p.grad is not None
        kinds = self._kinds_of(p, state["exp_avg"], state["exp_avg_sq"])
        rows = len(p) if p.ndim > 1 else 1
        tensors = (p, state["exp_avg"], state["exp_avg_sq"], p.grad, kinds)
        pointers = (None if x is None else x.data_ptr() for x in tensors)
        sizes = (group["lr"] / (1 - b1**t), math.sqrt(1 - b2**t))
        return _Weight(*pointers, rows, p.numel() // rows, *sizes)

    def _kinds_of(self, p: Tensor, m: Tensor, v: Tensor) -> Tensor | None:
        """Return the kind of each row (rows,) uint8, or None: all have a gradient.

        Which rows are asleep is read off the moments once, and again after others changed them.
        """
        rows = rows_with_gradient(p)
        if rows is None:
            self._kinds.pop(p, None)
            return None
        changes = m._version + v._version  # the kernel's own do not count
        known = self._kinds.get(p)
        if known and known[0] is m and known[1] is v and known[2] == changes:
            kinds = known[3]
            kinds[kinds == GRADIENT] = AWAKE
        else:
            kinds = ((m != 0) | (v != 0)).any(1).to(torch.uint8)
        kinds[rows] = GRADIENT
        self._kinds[p] = (m, v, changes, kinds)
        return kinds


def _fits(p: Tensor) -> bool:
    return (
        p.device.type == "cpu"
        and p.dtype == torch.float32
        and not isinstance(p, DTensor)
        and p.is_contiguous()
        and p.numel() > 0
        and p.grad is not None
        and p.grad.is_contiguous()
    )


def total_norm(parameters: Sequence[Tensor]) -> Tensor:
    """Return the norm of all gradients; rows that have none are not read."""
    found = [(p.grad, rows_with_gradient(p)) for p in parameters if p.grad is not None]
    return nn.utils.get_total_norm(
        [grad if rows is None else grad.index_select(0, rows) for grad, rows in found]
    )


def clip(optimizers: Sequence[Optimizer], parameters: Sequence[Tensor], limit: float) -> float:
    """Make the norm of all gradients at most `limit`; return what it was.

    Where our kernel does the update it multiplies on the way; else this is
    torch.nn.utils.clip_grad_norm_ without its pass over gradients that are small enough.
    """
    total = total_norm(parameters)
    norm = float(whole(total))
    only = optimizers[0]
    if len(optimizers) == 1 and isinstance(only, AdamW) and only.own:
        only.scale = min(1.0, limit / (norm + 1e-6))  # 1e-6: as clip_grad_norm_
    elif norm > limit:
        nn.utils.clip_grads_with_norm_(parameters, limit, total)
    return norm
