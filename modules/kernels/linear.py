"""float32 products through oneDNN on AMD's AVX512, where PyTorch's own go another, slower way.

PyTorch multiplies float32 with MKL, which on AMD never takes its AVX512 path: 2 to 2.4 times slower
than oneDNN (measured on Zen 5; on Zen 3, which has AVX2 only, they are level). The result is
float32 either way, up to its last bits. Elsewhere, and for few rows, they stay PyTorch's own.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW = 32  # rows below which setting oneDNN up costs more than it gains
ABILITIES = torch.cpu.get_capabilities()
ON_AMD = "AMD" in str(ABILITIES.get("cpu_name", ""))
ONEDNN = ON_AMD and bool(ABILITIES.get("avx512_f")) and torch.backends.mkldnn.is_available()


class Linear(nn.Linear):
    """torch.nn.Linear by the faster way of this processor."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x W' + b."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W' + b, as torch.nn.functional.linear."""
    if not _wanted(x, weight):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _Linear.apply(x, weight, bias)
    return _product(x, weight, bias)


def gelu(x: Tensor, layer: nn.Module) -> Tensor:
    """Return GELU (tanh form) of a layer's output, in the same pass where no gradient needs it."""
    if type(layer) is Linear and not torch.is_grad_enabled() and _wanted(x, layer.weight):
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, layer.weight, layer.bias, "gelu", [], "tanh"
        )
        return out
    return F.gelu(layer(x), approximate="tanh")


def _wanted(x: Tensor, weight: Tensor) -> bool:
    return (
        ONEDNN
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() >= FEW * x.shape[-1]
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return _product(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dy, rows = grads[0].flatten(0, -2), x.flatten(0, -2)
        dx = _product(dy, weight.t()).view(x.shape) if ctx.needs_input_grad[0] else None
        return dx, _product(dy.t(), rows.t()), dy.sum(0) if ctx.has_bias else None
