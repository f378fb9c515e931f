"""What MFU is measured against: the rate of one large product on this device, in this type."""

import time

import torch
import torch.nn.functional as F


def ceiling(kind: str, dtype: torch.dtype, *, seconds: float = 0.15) -> float:
    """Return the FLOP/s of the fastest product of two square matrices; kind: cpu or cuda."""
    sizes = (4096, 8192) if kind == "cuda" else (512, 1024)  # fp32 on CPUs differs by size
    return max(_product_rate(kind, dtype, size, seconds) for size in sizes)


def _product_rate(kind: str, dtype: torch.dtype, size: int, seconds: float) -> float:
    drawn = torch.Generator(kind).manual_seed(0)  # leaves the training's own draws alone
    a = torch.rand(size, size, device=kind, generator=drawn).to(dtype)
    best, end = float("inf"), time.perf_counter() + seconds
    with torch.no_grad(), torch.autocast(kind, enabled=False):
        while time.perf_counter() < end or best == float("inf"):
            wait(kind)
            began = time.perf_counter()
            F.linear(a, a)
            wait(kind)
            best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / best


def wait(kind: str) -> None:
    """Wait until the device has done all that it was given."""
    if kind == "cuda":
        torch.cuda.synchronize()
