"""Learning rates of parts of a model, and their transfer across widths (muP).

Yang et al. 2022, "Tensor Programs V", Table 8, for Adam and our tied decoder, m = width / base:
hidden matrices start at std / sqrt(m) and learn at lr / m; the logits are divided by m; embeddings,
biases and norms stay. The division sits in the norm before the output: its gain starts at 1 / m
and learns at lr / m (so does its bias), which gives the same function and the same updates of Adam
(but for its epsilon), so that checkpoints are those of any GPT. Attention needs nothing: muP's 1/D
differs from 1/sqrt(D) only where the head size D changes, and it is 64 in all the papers' models.

Muon's updates have a spectral norm of sqrt(width) (match_rms_adamw makes their root mean square
that of AdamW's), which has to stay: lr / sqrt(m) (Yang, Simon and Bernstein 2023, "A spectral
condition for feature learning", condition 1).
"""

import torch
from torch import Tensor, nn

from modules.model.gpt import GPT
from modules.training.config import OptimConfig

EMBEDDINGS = {"wte", "wpe", "lm_head"}


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Tell whether Muon should update it: 2-D, and neither an embedding nor a task head."""
    return parameter.ndim == 2 and not (EMBEDDINGS | {"head"}) & set(name.split("."))


def width_ratio(model: nn.Module, config: OptimConfig) -> float:
    """Return 1 / m: base_width over the model's width; 1 where rates are not transferred."""
    if config.base_width is None:
        return 1.0
    assert isinstance(model, GPT), "PretrainConfig and FinetuneConfig refuse others"
    return config.base_width / model.config.n_embd


def is_output_norm(model: nn.Module, name: str) -> bool:
    """Tell whether it is the gain or bias of the norm whose output becomes logits."""
    assert isinstance(model, GPT)
    last = f"h.{model.config.n_layer - 1}.ln_2." if model.config.norm == "post" else "ln_f."
    return name.startswith(last)


def lr_ratio(model: nn.Module, name: str, parameter: Tensor, config: OptimConfig) -> float:
    """Return a parameter's learning rate under Adam relative to `lr`."""
    if EMBEDDINGS & set(name.split(".")):
        return config.embedding_lr_ratio
    if config.base_width is None:
        return 1.0
    scaled = is_hidden_matrix(name, parameter) or is_output_norm(model, name)
    return width_ratio(model, config) if scaled else 1.0


@torch.no_grad()
def rescale(model: nn.Module, config: OptimConfig) -> None:
    """Give new weights muP's sizes; nothing where rates are not transferred."""
    if config.base_width is None:
        return
    ratio = width_ratio(model, config)
    for name, parameter in model.named_parameters():
        if is_hidden_matrix(name, parameter):
            parameter.mul_(ratio**0.5)
        elif is_output_norm(model, name):
            parameter.mul_(ratio)
