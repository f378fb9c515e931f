"""What the decoders share: logits, the language-model loss, new tokens.

The loss never holds the logits of a whole batch: it works through the positions in chunks and,
where gradients are wanted, makes them chunk by chunk on the way; the backward pass only scales.
Tensors: B rows, T positions, C features, V vocabulary, N = positions that count.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import init
from torch.overrides import TorchFunctionMode

from modules.kernels import gradients, ops
from modules.kernels.linear import linear

IGNORED = -100  # a target that is not scored
CHUNK = 2**25  # logits held at once: 128 MiB in float32, 667 positions of GPT-2's vocabulary


_DRAWS = (Tensor.normal_, Tensor.uniform_, init.normal_, init.uniform_, init.kaiming_uniform_)


class _NoDraw(TorchFunctionMode):
    """Leaves random fills out."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def skeleton() -> Iterator[None]:
    """Build modules without memory and without drawing weights, to be filled from a file.

    Drawing on the meta device would import torch's compiler: seconds at the first load.
    """
    with torch.device("meta"), _NoDraw():
        yield


class Decoder(nn.Module):
    """A language model: tokens (B, T) to features (B, T, C), and features to logits."""

    config: Any  # its own Config class, with vocab_size and n_positions
    wte: nn.Embedding
    branching = False  # whether it reads packed rows, which may branch (modules/model/packed.py)
    drop_apart = False  # embedding dropout of token and position each by itself (gpt1.md 1.2)

    @property
    def width(self) -> int:
        """Features per position that `forward` returns and a head reads."""
        return self.output_matrix.shape[1]

    @property
    def output_matrix(self) -> Tensor:
        """The matrix (V, C) that turns features into logits: the token embedding, tied."""
        return self.wte.weight

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.wte.weight.device

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits (..., V) of features (..., C)."""
        return linear(hidden, self.output_matrix)

    def read_tokens(self, tokens: Tensor) -> Tensor:
        """Return the embeddings (B, T, C) of tokens (B, T)."""
        if gradients.embeds(self.wte.weight):
            return gradients.embed(self.wte.weight, tokens)
        embeddings: Tensor = self.wte(tokens)
        return embeddings

    def lm_loss(self, tokens: Tensor, targets: Tensor, share: float = 1.0) -> Tensor:
        """Return the mean negative log-likelihood of `targets`, in nats per token.

        Args:
            tokens: (B, T) int64.
            targets: (B, T) int64, already shifted by the caller; -100 is not scored. The loss is 0
                where nothing is scored.
            share: times this; a micro-batch's share of its step.
        """
        hidden = self(tokens)  # (B, T, C)
        kept = (targets != IGNORED).to(wide(hidden.dtype))
        return self.weighted_loss(hidden, targets, kept / kept.sum().clamp(min=1) * share)

    def weighted_loss(
        self, hidden: Tensor, targets: Tensor, weights: Tensor, matrix: Tensor | None = None
    ) -> Tensor:
        """Return sum(weight * negative log-likelihood) over positions.

        Args:
            hidden: (B, T, C) features from `forward`.
            targets: (B, T) int64; ignored where the weight is 0.
            weights: (B, T), constants (no gradient flows into them).
            matrix: (V, C), what the softmax runs over; None: the output matrix.
        """
        matrix = self.output_matrix if matrix is None else matrix
        rows, targets, weights = _scored(targets.flatten(), weights.flatten())
        flat = hidden.flatten(0, -2)  # (B*T, C)
        flat = flat if rows is None else flat.index_select(0, rows)  # (N, C)
        if ops.usable(flat):
            return ops.weighted_loss(flat, matrix, targets, weights)
        dtype = compute_dtype(flat)
        if torch.is_grad_enabled() and (flat.requires_grad or matrix.requires_grad):
            return _WeightedLoss.apply(flat, matrix, targets, weights, dtype)
        losses = token_losses(flat, matrix, targets)  # (N,)
        return (losses * weights.to(losses.dtype)).sum()

    def token_losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the negative log-likelihood (B, T) of every target, in nats, without gradient.

        Positions whose target is -100 get 0.
        """
        flat = targets.flatten()
        rows = (flat != IGNORED).nonzero().squeeze(1)  # (N,)
        losses = token_losses(
            hidden.flatten(0, -2).index_select(0, rows), self.output_matrix, flat[rows]
        )
        out = losses.new_zeros(flat.shape)
        return out.index_copy_(0, rows, losses).view(targets.shape)

    @torch.no_grad()
    def resize(self, n_new: int, generator: torch.Generator | None = None) -> None:
        """Add `n_new` tokens after the vocabulary, N(0, 0.02): start, delimiter, extract.

        GPT-1 paper, section 3.3; the release draws all of them (gpt1.md 4.4).
        """
        self.wte = grown(self.wte, n_new, generator)
        self.config = self.config.but(vocab_size=self.config.vocab_size + n_new)


def token_losses(hidden: Tensor, matrix: Tensor, targets: Tensor) -> Tensor:
    """Return -log P(target) (N,) for features (N, C) and an output matrix (V, C), in chunks."""
    dtype = compute_dtype(hidden)
    out = hidden.new_empty(len(hidden), dtype=wide(hidden.dtype))
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        low = matrix.to(dtype)
        for part in _chunks(len(hidden), len(matrix)):
            logits = linear(hidden[part].to(dtype), low).to(out.dtype)  # (n, V)
            out[part] = F.cross_entropy(logits, targets[part], reduction="none")
    return out


class _WeightedLoss(torch.autograd.Function):
    """Weighted cross-entropy of hidden @ matrix.T; the gradient is made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, matrix: Tensor, targets: Tensor, weights: Tensor, dtype: Any
    ) -> Tensor:
        sums = wide(hidden.dtype)
        weights = weights.to(sums)
        # Gradients are made for weights of at most 1: nothing underflows in half precision.
        largest = weights.abs().max() if len(weights) else weights.sum()
        relative = (weights / largest).unsqueeze(1)  # (N, 1)
        loss = torch.zeros((), dtype=sums, device=hidden.device)
        grad_hidden = torch.empty_like(hidden)
        grad_matrix = torch.zeros_like(matrix)
        with torch.autocast(hidden.device.type, enabled=False):
            low = matrix.to(dtype)
            for part in _chunks(len(hidden), len(matrix)):
                x, t = hidden[part].to(dtype), targets[part].unsqueeze(1)  # (n, C), (n, 1)
                logits = linear(x, low).to(sums)  # (n, V)
                losses, grad = _softmax_loss(logits, t)
                loss += losses @ weights[part]
                grad = grad.mul_(relative[part]).to(dtype)  # (n, V)
                grad_hidden[part] = linear(grad, low.t())
                _add_product(grad_matrix, grad, x)
        ctx.save_for_backward(grad_hidden, grad_matrix, largest)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_hidden, grad_matrix, largest = ctx.saved_tensors
        scale = grads[0] * largest
        return grad_hidden * scale, grad_matrix * scale, None, None, None


def _softmax_loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return losses (n,) and their gradient (n, V), which takes the place of the logits."""
    largest = logits.amax(1, keepdim=True)  # (n, 1)
    picked = logits.gather(1, targets) - largest
    exps = logits.sub_(largest).exp_()  # (n, V)
    total = exps.sum(1, keepdim=True)
    grad = exps.div_(total).scatter_add_(1, targets, torch.full_like(total, -1.0))
    return (total.log() - picked).squeeze(1), grad


def _add_product(total: Tensor, grad: Tensor, x: Tensor) -> None:
    """Add grad.T @ x to `total` (V, C)."""
    total += linear(grad.t(), x.t())


def _chunks(n: int, vocab: int) -> list[slice]:
    """Cut n positions into runs whose logits fit in CHUNK."""
    step = max(1, CHUNK // vocab)
    return [slice(i, min(i + step, n)) for i in range(0, n, step)]


def _scored(targets: Tensor, weights: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return the positions with a weight (None: all of them), their targets and weights."""
    rows = weights.nonzero().squeeze(1)  # (N,)
    if len(rows) == len(weights):
        return None, targets, weights
    return rows, targets[rows], weights[rows]


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Return the type products run in here: autocast's, or the tensor's own."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type sums are held in: at least float32."""
    return torch.promote_types(dtype, torch.float32)


def grown(table: nn.Embedding, n_new: int, generator: torch.Generator | None) -> nn.Embedding:
    """Return the embedding with `n_new` more rows, N(0, 0.02) (gpt1.md 4.4)."""
    old = table.weight
    rows = torch.empty(n_new, old.shape[1], dtype=old.dtype)
    rows.normal_(0, 0.02, generator=generator)  # on the CPU: the same on every device
    weight = torch.cat([old, rows.to(old.device)])  # (V + n_new, C)
    return nn.Embedding(weight.shape[0], weight.shape[1], _weight=weight)
