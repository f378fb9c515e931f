"""The model that fine-tuning starts from: a checkpoint's decoder, three new tokens, a head.

What is taken from the checkpoint is in FinetuneConfig: `use`, `transfer_layers`, `lora`.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from modules.model import checkpoint
from modules.model.base import Decoder
from modules.model.gpt import GPT
from modules.model.heads import HeadConfig, TaskModel
from modules.task import Task
from modules.training import lora
from modules.training.order import mix
from modules.training.transform import N_SPECIAL
from modules.training.tuning_config import FinetuneConfig


def build(directory: Path, task: Task, config: FinetuneConfig) -> TaskModel:
    """Return the model to fine-tune: decoder, three new tokens, head; drawn by the seed.

    Raises:
        ValueError: the checkpoint's decoder cannot do what the config asks for.
    """
    generator = torch.Generator().manual_seed(mix(config.seed, 4) >> 1)
    decoder: Decoder = checkpoint.load(directory)
    new = decoder.config
    if config.dropout is not None:
        names = {"embd_dropout", "attn_dropout", "resid_dropout"} & set(type(new).model_fields)
        new = new.but(**dict.fromkeys(sorted(names), config.dropout))
    fresh = checkpoint.build(new)
    fresh.init_weights(generator)
    if config.use != "scratch":
        keep = _transferred(decoder, config.transfer_layers)
        fresh.load_state_dict(fresh.state_dict() | keep)
    fresh.resize(N_SPECIAL, generator)
    _prepare(fresh, config)
    model = TaskModel(fresh, head_of(task, config))
    model.init_head(generator)
    return model.train()


def _prepare(decoder: Decoder, config: FinetuneConfig) -> None:
    """Say what of the decoder learns, and what its embedding dropout is drawn for."""
    decoder.requires_grad_(config.use != "features")
    decoder.drop_apart = config.embedding_dropout == "separate"
    if config.embedding_dropout == "matrix":  # objective.py drops; `drop` would do so again
        decoder.drop = nn.Identity()
    if config.lm_classes == "with_positions" and not isinstance(decoder, GPT):
        raise ValueError("lm_classes with_positions: this decoder has no position vectors")
    if config.lora:
        with torch.random.fork_rng():
            torch.manual_seed(mix(config.seed, 8) >> 1)
            lora.adapt(decoder, config.lora)


def head_of(task: Task, config: FinetuneConfig) -> HeadConfig:
    """Return the head of a task; a scale's classes are its whole numbers (gpt1.md 4.6)."""
    classes = len(task.labels)
    if task.scale:
        classes = round(task.scale[1] - task.scale[0]) + 1
    return HeadConfig(
        format=task.format,
        n_classes=max(1, classes),
        dropout=config.clf_dropout,
        pair=config.pair,
        scale=task.scale,
        score_loss=config.score_loss,
        likelihood=config.likelihood and task.format == "multiple_choice",
    )


def _transferred(decoder: Decoder, layers: int | None) -> dict[str, Tensor]:
    """Return the tensors to copy: all, or the embeddings and the first `layers` blocks.

    Raises:
        ValueError: the checkpoint does not have so many blocks.
    """
    state = decoder.state_dict()
    n_blocks = decoder.config.n_layer if isinstance(decoder, GPT) else 0
    if layers is None or layers == n_blocks > 0:
        return state  # the final norm belongs to the last block
    if layers > n_blocks:
        raise ValueError(f"transfer_layers {layers}: the checkpoint has {n_blocks} blocks")
    kept = ("wte.", "wpe.", *(f"h.{i}." for i in range(layers)))
    return {name: t for name, t in state.items() if name.startswith(kept)}
