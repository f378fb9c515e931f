"""The bfloat16 ceiling: the best rate of any large product, PyTorch's or ours."""

import sys
import time

import torch

from bench.trainers import answer, job
from modules.kernels import ops

job()
SIZES = ((1024, 1024, 1024), (2048, 1024, 2048), (2048, 2048, 2048), (1024, 4096, 1024))


def rate(m: int, k: int, n: int, ours: bool) -> float:
    """Return operations a second, the best of three."""
    x, w = torch.randn(m, k).bfloat16(), torch.randn(n, k)
    bias, y, low = torch.zeros(n), torch.empty(m, n, dtype=torch.bfloat16), w.bfloat16()
    seconds = []
    for _ in range(4):
        begin = time.perf_counter()
        if ours:
            ops._call("linear", x, w, bias, y, m, n, k)
        else:
            torch.nn.functional.linear(x, low)
        seconds.append(time.perf_counter() - begin)
    return 2 * m * k * n / min(seconds)


for _ in sys.stdin:
    answer(flops=max(rate(*size, ours) for size in SIZES for ours in (False, True)))
