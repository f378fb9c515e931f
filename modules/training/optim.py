"""OptimConfig, parameter groups, and the learning rate as a pure function of the step.

Defaults are nanoGPT's GPT-2 recipe (config/train_gpt2.py; the GPT-2 paper prints none). GPT-1's
pre-training and fine-tuning values (paper section 4.1, openai/finetune-transformer-lm) are
GPT1_OPTIM and GPT1_FINETUNE_OPTIM below.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from modules.kernels import products
from modules.training.adamw import AdamW
from modules.training.config import OptimConfig
from modules.training.ranks import cut_like, whole
from modules.training.transfer import is_hidden_matrix, lr_ratio, width_ratio


def learning_rate(step: int, total: int, config: OptimConfig) -> float:
    """Return the learning rate of update `step` (0-based) of `total`.

    cosine is nanoGPT's: (step + 1) / (warm-up + 1), then a half cosine down to min_lr_fraction.
    wsd is the same warm-up, then lr until the last decay_fraction of the updates.
    linear is the GPT-1 release's [opt.py]: (x / w while x <= w, else 1) * (1 - x) with x = t / T
    and t from 0, so the very first update has rate 0.
    """
    warmup = config.warmup_steps or config.warmup_fraction * total
    if config.schedule == "linear":
        rise = step / warmup if step <= warmup and warmup else 1.0
        return config.lr * rise * (1 - step / total)
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return config.lr
    low = config.min_lr_fraction
    if config.schedule == "wsd":
        return config.lr * (low + (1 - low) * cooldown(step, total, config))
    progress = min(1.0, (step - warmup) / max(1.0, total - warmup))
    return config.lr * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress)))


def cooldown(step: int, total: int, config: OptimConfig) -> float:
    """Return what is left of the rate, 1 before the decay (Hägele et al. 2024, equation 1)."""
    length = max(1.0, config.decay_fraction * total)
    progress = min(1.0, max(0.0, (step - (total - length)) / length))
    return 1 - (math.sqrt(progress) if config.decay_shape == "1-sqrt" else progress)


class ReleaseAdam(Optimizer):
    """Adam as in OpenAI's fine-tuning release [opt.py].

    Bias correction sits in the step size ("epsilon-hat" form) and so also scales the decoupled
    weight decay: p -= lr_t (m / (sqrt(v) + eps) + w p), lr_t = lr sqrt(1 - b2^t) / (1 - b1^t).
    """

    def __init__(self, params: Iterable[Any], **defaults: Any) -> None:
        """Take parameter groups and lr, betas, eps, weight_decay."""
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Apply one update to every parameter that has a gradient."""
        assert closure is None, "closures are not used here"
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in (p for p in group["params"] if p.grad is not None):
                state = self.state[p]
                if not state:
                    state["step"] = torch.tensor(0.0)
                    state["exp_avg"] = torch.zeros_like(p)
                    state["exp_avg_sq"] = torch.zeros_like(p)
                state["step"] += 1
                t = int(state["step"])
                state["exp_avg"].lerp_(p.grad, 1 - b1)
                state["exp_avg_sq"].mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
                lr_t = group["lr"] * math.sqrt(1 - b2**t) / (1 - b1**t)
                update = state["exp_avg"] / (state["exp_avg_sq"].sqrt() + group["eps"])
                p.sub_(update.add_(p, alpha=group["weight_decay"]), alpha=lr_t)


class Muon(Optimizer):
    """Muon as torch.optim.Muon with match_rms_adamw, its products in a type of our choice.

    PyTorch's always multiplies in bfloat16, which is 30 times slower than float32 on processors
    that only emulate it (measured on AVX2: 13 s a step instead of 1.3).
    """

    def __init__(self, params: Iterable[Any], *, dtype: torch.dtype, **defaults: Any) -> None:
        """Take matrices (2-D) and lr, weight_decay, momentum, ratio."""
        super().__init__(params, defaults)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Apply one update to every matrix that has a gradient."""
        assert closure is None, "closures are not used here"
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None]
            updates = [whole(self._update(p, group["momentum"])) for p in trained]
            for p, update in zip(trained, orthogonal(updates, self.dtype), strict=True):
                size = 0.2 * math.sqrt(max(update.shape))  # so large are AdamW's updates
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(cut_like(update.to(p.dtype), p), alpha=-group["lr"] * size)

    def _update(self, p: Tensor, momentum: float) -> Tensor:
        """Return Nesterov's mean of the gradients."""
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        mean = state["momentum_buffer"].lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(mean, momentum)


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Keller Jordan, kellerjordan.github.io/posts/muon/
ITERATIONS = 5  # the same


def orthogonal(matrices: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Return roughly the nearest matrices with equal singular values, multiplied in `dtype`."""
    if products.multiplies(matrices, dtype):
        return products.orthogonal(matrices, NEWTON_SCHULZ, ITERATIONS)
    stacks: dict[torch.Size, list[int]] = {}
    for i, matrix in enumerate(matrices):
        stacks.setdefault(matrix.shape, []).append(i)
    out = list(matrices)
    for places in stacks.values():  # matrices of one shape go through together
        stack = torch.stack([matrices[i].to(dtype) for i in places])
        for i, matrix in zip(places, newton_schulz(stack), strict=True):
            out[i] = matrix
    return out


def newton_schulz(matrices: Tensor) -> Tensor:
    """Return the same of a stack (N, rows, columns)."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT.contiguous() if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # spectral norm at most 1
    a, b, c = NEWTON_SCHULZ
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        mixed = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, mixed, x, beta=a)
    return x.mT if tall else x


def build_optimizers(
    model: nn.Module, config: OptimConfig, *, dtype: torch.dtype = torch.float32
) -> list[Optimizer]:
    """Return the optimizers over all trainable parameters, decay only on tensors of >= 2-D.

    Args:
        dtype: what Muon multiplies in.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices: list[Tensor] = []
    if config.optimizer == "muon":
        matrices = [p for name, p in named if is_hidden_matrix(name, p)]
    taken = {id(p) for p in matrices}
    rest = [(name, p) for name, p in named if id(p) not in taken]
    groups = parameter_groups(rest, config, lambda name, p: lr_ratio(model, name, p, config))
    if config.optimizer == "release_adam":
        return [ReleaseAdam(groups, lr=config.lr, betas=config.betas, eps=config.eps)]
    adam = AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)
    if not matrices:
        return [adam]
    muon = Muon(
        matrices,
        dtype=dtype,
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.muon_momentum,
        ratio=config.muon_lr_ratio * width_ratio(model, config) ** 0.5,
    )
    return [muon, adam]


def parameter_groups(
    named: Sequence[tuple[str, Tensor]], config: OptimConfig, ratio: Callable[[str, Tensor], float]
) -> list[dict[str, Any]]:
    """Group parameters by weight decay (tensors of >= 2-D, first) and learning-rate ratio."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, p in sorted(named, key=lambda pair: pair[1].ndim < 2):
        decay = config.weight_decay if p.ndim >= 2 else 0.0
        groups.setdefault((decay, ratio(name, p)), []).append(p)
    return [
        {"params": parameters, "weight_decay": decay, "ratio": own}
        for (decay, own), parameters in groups.items()
    ]


def set_learning_rate(optimizers: list[Optimizer], lr: float) -> None:
    """Give every parameter group this rate, times the group's own ratio."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("ratio", 1.0)


def optimizer_tensors(model: nn.Module, optimizers: list[Optimizer]) -> dict[str, Tensor]:
    """Return the optimizers' state as {parameter name/key: tensor}."""
    return {
        f"{name}/{key}": value
        for name, p in model.named_parameters()
        for optimizer in optimizers
        if p in optimizer.state
        for key, value in optimizer.state[p].items()
    }


def restore_optimizers(
    model: nn.Module, optimizers: list[Optimizer], tensors: dict[str, Tensor]
) -> None:
    """Put saved state back, bit for bit.

    Raises:
        ValueError: a saved tensor belongs to no parameter of these optimizers.
    """
    parameters = dict(model.named_parameters())
    owner = {
        id(p): optimizer
        for optimizer in optimizers
        for group in optimizer.param_groups
        for p in group["params"]
    }
    for full_name, value in tensors.items():
        name, key = full_name.rsplit("/", 1)
        if name not in parameters or id(parameters[name]) not in owner:
            raise ValueError(f"optimizer state for {name!r}, which this model does not train")
        p = parameters[name]
        # "step" stays where it was: fused AdamW keeps it beside the weights, ReleaseAdam on the CPU
        on_cpu = key == "step" and isinstance(owner[id(p)], ReleaseAdam)
        value = value.clone() if on_cpu else value.to(p.device, copy=True)
        owner[id(p)].state[p][key] = cut_like(value, p)
