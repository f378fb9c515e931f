"""The kernels as differentiable operations: the two halves of a pre-norm block, and the loss.

Each is one autograd node with a hand-written way back (GPT-2 paper, section 2.3). Activations are
what the processor multiplies best (build.element: bfloat16 or float32), the residual stream, sums
and weights float32. Nothing is kept that is cheap to make again: the norm's output and GELU's are
recomputed where a product needs them.
B rows, T positions, M = B T, R rows of any length, C features, H heads, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

from modules.kernels.build import call, element
from modules.kernels.gradients import all_rows, loan, loan_of_rest, place, stays
from modules.kernels.room import Loan

Rows = tuple[Tensor, Tensor, Tensor]  # starts (R + 1,), prefix (R,), branch (B T,) or empty
HELD = 2**26  # bytes of logits held at once, or more where gradients' memory has room
ATTENTION_KEEPS, MLP_KEEPS = (1, 3, 1), (1, 4)  # what the ways back need, in M x C elements

# Memory that is used again each step: fresh memory costs a page fault every 4 KiB.
_room = torch.empty(0, dtype=torch.uint8)


def usable(x: Tensor) -> bool:
    """Tell whether the kernels take this float32 input: on a CPU, in the precision asked for."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.compiler.is_compiling():
        return False
    asked = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    return asked == element() and x.shape[-1] % 2 == 0


def attention_block(
    x: Tensor, norm: Any, attn: Any, rows: Rows | None = None, at: Tensor | None = None
) -> Tensor:
    """Return x + attn(norm(x)) for x (B, T, C) and the modules of modules/model/gpt.py.

    Args:
        rows: how the B T positions divide into what attention sees (modules/model/packed.py), where
            that is not B times T.
        at: the few of the positions (P,), in rows, whose features (1, P, C) alone are wanted.
    """
    weights = (*norm.parameters(), *attn.c_attn.parameters(), *attn.c_proj.parameters())
    rows = rows or _even(*x.shape[:2])
    if at is None:
        return _AttentionBlock.apply(x, rows, attn.n_head, norm.eps, *weights)
    order = at.argsort(stable=True)
    out = _AttentionAt.apply(x, at[order], rows, attn.n_head, norm.eps, *weights)
    return out.index_select(1, order.argsort())


def mlp_block(x: Tensor, norm: Any, mlp: Any) -> Tensor:
    """Return x + mlp(norm(x)) for x (B, T, C) and the modules of modules/model/gpt.py."""
    weights = (*norm.parameters(), *mlp.c_fc.parameters(), *mlp.c_proj.parameters())
    return _MLPBlock.apply(x, norm.eps, *weights)


def weighted_loss(hidden: Tensor, matrix: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Return sum(weight * -log P(target)) of features (N, C) float32 and a matrix (V, C).

    Raises:
        IndexError: a target is no row of the matrix.
    """
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < len(matrix):
        raise IndexError(f"targets {int(targets.min())} to {int(targets.max())} of {len(matrix)}")
    wanted = torch.is_grad_enabled() and (hidden.requires_grad or matrix.requires_grad)
    return _Loss.apply(hidden, matrix, targets, weights, wanted)


class _AttentionBlock(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, rows: Rows, n_head: int, eps: float, *weights: Tensor
    ) -> Tensor:
        norm_w, norm_b, w, b, w_out, b_out = weights
        x = x.contiguous()
        m, c, kept = x.numel() // x.shape[-1], x.shape[-1], loan(norm_w)
        y, normalised, scale = _normalise(x, norm_w, norm_b, eps, kept)
        qkv, a = _new(m, 3 * c, kept=kept), _new(m, c, kept=kept)
        call("linear", y, w, b, qkv, m, 3 * c, c)
        lse = torch.empty(n_head, m)
        sizes = (len(rows[1]), m, n_head, c // n_head)
        call("attention", qkv, a, lse, *rows, *sizes)
        out = torch.empty_like(x)
        call("linear_residual", a, w_out, b_out, x, out, m, c, c)
        ctx.save_for_backward(normalised, scale, qkv, a, lse, *rows)
        ctx.weights, ctx.sizes, ctx.kept = weights, sizes, kept
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        normalised, scale, qkv, a, lse, *rows = ctx.saved_tensors
        norm_w, norm_b, w, b, w_out, b_out = ctx.weights
        out = _Gradients(ctx.weights)
        dx = grads[0].contiguous()
        m, c = len(qkv), dx.shape[-1]
        d = _rounded(dx)
        out.weight("linear_weight", d, a, w=w_out, b=b_out)
        da, dqkv = _new(m, c), _new(m, 3 * c)
        call("linear_input", d, w_out, da, m, c, c)
        call("attention_back", qkv, a, da, lse, dqkv, *rows, *ctx.sizes)
        out.weight("linear_weight_norm", dqkv, normalised, norm_w, norm_b, w=w, b=b)
        call("linear_input", dqkv, w, da, m, 3 * c, c)
        dx = out.norm(da, normalised, scale, dx)
        ctx.kept.end()
        return dx, None, None, None, *out.all()


class _AttentionAt(torch.autograd.Function):
    """The same with queries at some positions alone, which are rising."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, at: Tensor, rows: Rows, n_head: int, eps: float, *weights: Tensor
    ) -> Tensor:
        norm_w, norm_b, w, b, w_out, b_out = weights
        x = x.contiguous().flatten(0, 1)
        (m, c), p, kept = x.shape, len(at), loan(norm_w)
        y, normalised, scale = _normalise(x, norm_w, norm_b, eps, kept)
        kv = _new(m, 2 * c, kept=kept)
        q, a, out = _new(p, c), _new(p, c), torch.empty(p, c)
        call("linear", y[at], w[:c], b[:c], q, p, c, c)
        call("linear", y, w[c:], b[c:], kv, m, 2 * c, c)
        more = (at, torch.searchsorted(at, rows[0]), *rows)
        sizes = (len(rows[1]), n_head, c // n_head)
        call("attention_at", q, kv, a, *more, *sizes)
        call("linear_residual", a, w_out, b_out, x[at], out, p, c, c)
        ctx.save_for_backward(normalised, scale, q, kv, a, *more)
        ctx.weights, ctx.sizes, ctx.kept = weights, sizes, kept
        return out[None]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        normalised, scale, q, kv, a, *more = ctx.saved_tensors
        norm_w, norm_b, w, b, w_out, b_out = ctx.weights
        out, at = _Gradients(ctx.weights), more[0]
        d = _rounded(grads[0].contiguous())
        (m, c), p = normalised.shape, len(at)
        out.weight("linear_weight", d, a, w=w_out, b=b_out)
        da, dq, dkv = _new(p, c), _new(p, c), _new(m, 2 * c)
        call("linear_input", d, w_out, da, p, c, c)
        call("attention_at_back", q, kv, da, dq, dkv, *more, *ctx.sizes)
        norm, queries, others = (norm_w, norm_b), slice(0, c), slice(c, 3 * c)
        out.weight("linear_weight_norm", dq, normalised[at], *norm, w=w, b=b, part=queries)
        out.weight("linear_weight_norm", dkv, normalised, *norm, w=w, b=b, part=others)
        dy = _new(m, c)
        call("linear_input", dkv, w[others], dy, m, 2 * c, c)
        call("linear_input", dq, w[queries], da, p, c, c)
        residual = grads[0].new_zeros(1, m, c)
        residual.index_add_(1, at, grads[0])
        dx = out.norm(dy.index_add_(0, at, da), normalised, scale, residual)
        ctx.kept.end()
        return dx, None, None, None, None, *out.all()


class _MLPBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, *weights: Tensor) -> Tensor:
        norm_w, norm_b, w, b, w_out, b_out = weights
        x = x.contiguous()
        m, c, inner, kept = x.numel() // x.shape[-1], x.shape[-1], w.shape[0], loan(norm_w)
        y, normalised, scale = _normalise(x, norm_w, norm_b, eps, kept)
        h, g = _new(m, inner, kept=kept), _new(m, inner)
        call("linear_gelu", y, w, b, h, g, m, inner, c)
        out = torch.empty_like(x)
        call("linear_residual", g, w_out, b_out, x, out, m, c, inner)
        ctx.save_for_backward(normalised, scale, h)
        ctx.weights, ctx.kept = weights, kept
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        normalised, scale, h = ctx.saved_tensors
        norm_w, norm_b, w, b, w_out, b_out = ctx.weights
        out = _Gradients(ctx.weights)
        dx = grads[0].contiguous()
        m, (inner, c) = len(h), w.shape
        d = _rounded(dx)
        g, dh, dy = _new(m, inner), _new(m, inner), _new(m, c)
        call("linear_input_gelu", d, w_out, h, dh, g, m, c, inner)
        out.weight("linear_weight", d, g, w=w_out, b=b_out)
        out.weight("linear_weight_norm", dh, normalised, norm_w, norm_b, w=w, b=b)
        call("linear_input", dh, w, dy, m, inner, c)
        dx = out.norm(dy, normalised, scale, dx)
        ctx.kept.end()
        return dx, None, *out.all()


class _Loss(torch.autograd.Function):
    """The gradient is made in the forward pass, a run of rows at a time: no logits are kept."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, matrix: Tensor, targets: Tensor, weights: Tensor, wanted: bool
    ) -> Tensor:
        (n, c), v = hidden.shape, len(matrix)
        ld = padded(v)
        x, weights = _rounded(hidden.contiguous()), weights.float().contiguous()
        losses = torch.empty(n)
        dx = torch.empty_like(hidden)
        all_rows(matrix)
        dw, add = place(matrix) if wanted else (matrix, False)
        rest = loan_of_rest()
        step = max(1, max(HELD, rest.left) // (ld * x.itemsize))
        room = _logits(min(step, n) * ld, rest)
        for i in range(0, n, step):
            rows = slice(i, min(i + step, n))
            logits, sizes = room[: (rows.stop - i) * ld], (ld, rows.stop - i, v)
            call("head_logits", x[rows], matrix, logits, *sizes, c)
            of_rows = (targets[rows].contiguous(), weights[rows], losses[rows])
            call("cross_entropy", logits, *of_rows, *sizes)
            if wanted:
                call("head_back", logits, x[rows], matrix, dx[rows], dw, *sizes, c, int(add))
            add = True
        rest.end()
        ctx.in_place = stays(matrix)
        ctx.save_for_backward(dx, None if ctx.in_place else dw)
        return (losses * weights).sum()  # not `@`: autocast would round it

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        dx, dw = ctx.saved_tensors
        if float(grads[0]) != 1.0:
            assert not ctx.in_place, "a loss with gradients in place is not scaled afterwards"
            dx, dw = dx * grads[0], dw * grads[0]
        return dx, dw, None, None, None


class _Gradients:
    """Where the six gradients of a half block go."""

    def __init__(self, weights: tuple[Tensor, ...]) -> None:
        self.weights = weights
        self.places = {id(w): place(w) for w in weights}

    def weight(
        self,
        name: str,
        dy: Tensor,
        x: Tensor,
        *more: Tensor,
        w: Tensor,
        b: Tensor,
        part: slice | None = None,
    ) -> None:
        """Make the gradients of a map's matrix and bias, or of a part of their rows."""
        (dw, add), (db, _) = self.places[id(w)], self.places[id(b)]
        if part is not None:
            dw, db = dw[part], db[part]
        call(name, dy, x, *more, dw, db, len(dy), *dw.shape, int(add))

    def norm(self, dy: Tensor, normalised: Tensor, scale: Tensor, residual: Tensor) -> Tensor:
        """Make the norm's gradients; return the block's own (B, T, C), residual included."""
        (dw, add), (db, _) = self.places[id(self.weights[0])], self.places[id(self.weights[1])]
        dx = torch.empty_like(residual)
        sizes = (*dy.shape, int(add))
        call(
            "layer_norm_input", dy, normalised, scale, self.weights[0], residual, dx, dw, db, *sizes
        )
        return dx

    def all(self) -> list[Tensor | None]:
        """Return them for autograd; None for what is in its place already."""
        grads = (grad for grad, _ in self.places.values())
        return [None if stays(w) else g for w, g in zip(self.weights, grads, strict=True)]


def _even(batch: int, t: int) -> Rows:
    """Return B rows of T positions, without branches."""
    none = torch.empty(0, dtype=torch.int64)
    return torch.arange(0, (batch + 1) * t, t), torch.zeros(batch, dtype=torch.int64), none


def _normalise(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, kept: Loan
) -> tuple[Tensor, ...]:
    c = x.shape[-1]
    m = x.numel() // c
    y, normalised, scale = _new(m, c), _new(m, c, kept=kept), torch.empty(m)
    call("layer_norm", x, weight, bias, y, normalised, scale, m, c, eps)
    return y, normalised, scale


def _rounded(x: Tensor) -> Tensor:
    """Return x as what is multiplied (M, C)."""
    x = x.reshape(-1, x.shape[-1])
    if element() == x.dtype:
        return x
    y = _new(*x.shape)
    call("to_elements", x, y, x.numel())
    return y


def padded(vocabulary: int) -> int:
    """Return a row of logits' length: whole panels; odd, or rows share sets of the cache."""
    return (-(-vocabulary // 64) | 1) * 64


def release() -> None:
    """Give the room for logits back; the next loss makes it anew."""
    global _room
    _room = _room[:0].clone()


def _logits(count: int, rest: Loan) -> Tensor:
    """Return room for logits."""
    global _room
    kind = element()
    assert kind is not None
    if count * kind.itemsize <= rest.left:
        return rest.new(count, dtype=kind)
    if _room.numel() < count * kind.itemsize:
        _room = torch.empty(count * kind.itemsize, dtype=torch.uint8)
    return _room[: count * kind.itemsize].view(kind)


def _new(*shape: int, kept: Loan | None = None) -> Tensor:
    kind = element()
    assert kind is not None
    return kept.new(*shape, dtype=kind) if kept else torch.empty(shape, dtype=kind)
