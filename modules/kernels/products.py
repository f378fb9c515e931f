"""The kernels as plain products, without gradients: for Muon, and for measuring the processor."""

import ctypes

import torch
from torch import Tensor

from modules.kernels.build import call, element, library


def multiplies(matrices: list[Tensor], dtype: torch.dtype) -> bool:
    """Tell whether the kernels take these matrices: float32 on a CPU, multiplied in `dtype`."""
    fitting = all(
        x.device.type == "cpu" and x.dtype == torch.float32 and not (x.shape[0] | x.shape[1]) & 1
        for x in matrices
    )
    return dtype == element() and fitting


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Return x W' (M, N) of x (M, K) of build.element and a float32 weight (N, K)."""
    y = x.new_empty(len(x), len(weight))
    call("linear", x, weight, torch.zeros(len(weight)), y, len(x), *weight.shape)
    return y


def orthogonal(updates: list[Tensor], abc: tuple[float, float, float], steps: int) -> list[Tensor]:
    """Return Newton-Schulz's x <- a x + (b x x' + c (x x')^2) x of float32 matrices, for Muon."""
    out = [torch.empty_like(update) for update in updates]
    rows, columns = ((ctypes.c_long * len(out))(*(x.shape[i] for x in out)) for i in (0, 1))
    pointers = [
        (ctypes.c_void_p * len(out))(*(x.data_ptr() for x in some)) for some in (updates, out)
    ]
    found = library()
    assert found is not None and all(x.is_contiguous() for x in updates)
    count, turns = ctypes.c_long(len(out)), ctypes.c_long(steps)
    found.orthogonal(count, *pointers, rows, columns, turns, (ctypes.c_float * 3)(*abc))
    return out
