"""How attention is computed where no kernel of our own does it.

Shapes: B rows, H heads, T queries, S keys, D features per head.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

HAS_BF16 = bool(torch.cpu.get_capabilities().get("avx512_bf16", False))  # of this processor


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Return softmax(q k' / sqrt(D)) v, (B, H, T, D); causal where no mask is given and T = S.

    The one place that knows how attention is computed.
    """
    causal = mask is None and q.shape[2] == k.shape[2]
    if causal and q.device.type == "cpu" and torch.is_grad_enabled() and _products_win(q, dropout):
        return attend_blocks(q, k, v, dropout)
    return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=causal)


def attend_blocks(q: Tensor, k: Tensor, v: Tensor, dropout: float, size: int = 128) -> Tensor:
    """Compute causal attention as plain batched products, `size` queries at a time."""
    shape = q.shape
    q, k, v = (x.reshape(-1, *x.shape[2:]) for x in (q, k, v))  # (B*H, T, D)
    out = []
    for start in range(0, shape[2], size):
        end = min(start + size, shape[2])
        future = q.new_full((end - start, end), -math.inf).triu_(start + 1)
        seen = k[:, :end].transpose(1, 2)  # (B*H, D, end)
        scores = torch.baddbmm(future, q[:, start:end], seen, alpha=shape[3] ** -0.5)
        p = F.dropout(scores.softmax(-1), dropout)  # (B*H, size, end)
        out.append(p @ v[:, :end])
    return torch.cat(out, 1).view(shape)


def _products_win(q: Tensor, dropout: float) -> bool:
    """True where CPU training is faster with `attend_blocks` than with PyTorch's own attention.

    Its fused kernel knows no dropout (1.3 to 1.7 times slower in float32, measured), and reaches a
    quarter of the products' rate in bfloat16 on processors that have it (PERFORMANCE.md).
    """
    if q.dtype == torch.bfloat16:
        return HAS_BF16
    return dropout > 0
