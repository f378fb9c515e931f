"""What MFU is measured against: the rate of one large product on this device, in this type."""

import time
from collections.abc import Callable

import torch

from modules.kernels import products
from modules.kernels.linear import linear


def ceiling(kind: str, dtype: torch.dtype, *, seconds: float = 0.15) -> float:
    """Return the FLOP/s of the fastest product of two square matrices; kind: cpu or cuda."""
    sizes = (4096, 8192) if kind == "cuda" else (512, 1024)  # fp32 on CPUs differs by size
    return max(
        _rate(kind, product, size, seconds / 2)
        for size in sizes
        for product in _products(kind, dtype, size)
    )


def _products(kind: str, dtype: torch.dtype, size: int) -> list[Callable[[], object]]:
    """Return the ways there are to multiply: PyTorch's, and the kernels' where they are used."""
    drawn = torch.Generator(kind).manual_seed(0)  # leaves the training's own draws alone
    matrix = torch.rand(size, size, device=kind, generator=drawn)
    low = matrix.to(dtype)
    if not products.multiplies([matrix], dtype):
        return [lambda: linear(low, low)]
    return [lambda: linear(low, low), lambda: products.product(low, matrix)]


def _rate(kind: str, product: Callable[[], object], size: int, seconds: float) -> float:
    best, end = float("inf"), time.perf_counter() + seconds
    with torch.no_grad(), torch.autocast(kind, enabled=False):
        while time.perf_counter() < end or best == float("inf"):
            wait(kind)
            began = time.perf_counter()
            product()
            wait(kind)
            best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / best


def wait(kind: str) -> None:
    """Wait until the device has done all that it was given."""
    if kind == "cuda":
        torch.cuda.synchronize()
