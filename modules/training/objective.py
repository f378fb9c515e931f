"""The loss of a micro-batch: L3 = L2 + lambda * L1 (GPT-1 paper, equations 3 to 5; gpt1.md 4.2).

With it the three embedding dropouts that all print "0.1" (gpt1.md 1.2), and the states that a
frozen decoder gives once and for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from modules.model.base import Decoder
from modules.model.gpt import GPT
from modules.model.heads import ABSENT, TaskModel
from modules.training.order import mix
from modules.training.transform import Batch, Encoded, collate, runs
from modules.training.tuning_config import FinetuneConfig


class Objective(nn.Module):
    """A model's share of the step's loss, as a module so that its weights can be exchanged."""

    def __init__(self, model: TaskModel, config: FinetuneConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(self, batch: Batch) -> Tensor:
        """Return this micro-batch's part of L2 + lambda * L1 over the whole batch."""
        decoder = self.model.decoder
        matrix = joint(decoder) if self.config.lm_classes == "with_positions" else None
        total, *_ = self.model.losses(
            batch.tokens,
            batch.extract,
            batch.labels,
            lm_weight=self.config.lm_share,
            share=batch.share,
            lm_share=batch.lm_share,
            lm_average=self.config.lm_average,
            lm_matrix=matrix,
        )
        return total


def loss(model: TaskModel, config: FinetuneConfig, batch: Batch, *, step: int) -> Tensor:
    """Return a micro-batch's share of the loss of a step."""
    objective = Objective(model, config)
    if config.embedding_dropout != "matrix" or not model.training:
        part: Tensor = objective(batch)
        return part
    dropped = drop_matrix(model.decoder, mix(config.seed, step, 7))
    weights = {f"model.decoder.{name}": t for name, t in dropped.items()}
    part = functional_call(objective, weights, (batch,))
    return part


def joint(decoder: Decoder) -> Tensor:
    """Return the release's one matrix (V + positions, C): tokens, then all positions.

    The release has cut the positions to the longest example by then (gpt1.md 4.5).
    """
    assert isinstance(decoder, GPT), "build refuses others"
    return torch.cat([decoder.wte.weight, decoder.wpe.weight])


def drop_matrix(decoder: Decoder, seed: int) -> dict[str, Tensor]:
    """Return the decoder's embeddings with elements dropped: one mask for a whole step.

    The tied output projection reads them too, as in the release (gpt1.md 1.2).
    """
    weights = {n: p for n, p in decoder.named_parameters() if n in ("wte.weight", "wpe.weight")}
    generator = torch.Generator(decoder.device).manual_seed(seed >> 1)
    kept = 1 - decoder.config.embd_dropout
    out = {}
    for name, p in weights.items():
        mask = torch.rand(p.shape, generator=generator, device=p.device) < kept
        out[name] = p * (mask / kept)
    return out


@dataclass(frozen=True)
class Features:
    """Examples as the states a frozen decoder gave for them."""

    states: Tensor  # (B, K, C)
    extract: Tensor  # (B, K) int64, -1: no such sequence
    labels: Tensor  # (B,)
    share: float = 1.0  # of the step's mean

    def to(self, device: torch.device) -> "Features":
        """Return the batch on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("states", "extract", "labels")}
        return replace(self, **moved)


def feature_loss(model: TaskModel, batch: Features) -> Tensor:
    """Return these examples' share of the task's mean loss."""
    return model.task_loss(model.decide(batch.states, batch.extract), batch.labels) * batch.share


@torch.no_grad()
def read_states(
    model: TaskModel, examples: Sequence[Encoded], *, limit: int
) -> dict[Encoded, Tensor]:
    """Return the states (K, C) of each example under a frozen decoder, without dropout.

    Args:
        limit: tokens computed at once.
    """
    training = model.training
    model.eval()
    out: dict[Encoded, Tensor] = {}
    for run in runs(sorted(examples, key=lambda e: e.length), limit):
        batch = collate(run).to(model.decoder.device)
        states = model.states(batch.tokens, batch.extract).float().cpu()  # (B, K, C)
        out |= {e: own[: len(e.sequences)] for e, own in zip(run, states, strict=True)}
    model.train(training)
    return out


def feature_batch(
    examples: Sequence[Encoded], states: dict[Encoded, Tensor], *, share: float = 1.0
) -> Features:
    """Return examples as one batch of states; missing answers are 0 and marked absent."""
    k = max(len(e.sequences) for e in examples)
    padded = [F.pad(states[e], (0, 0, 0, k - len(e.sequences))) for e in examples]
    extract = [[0] * len(e.sequences) + [ABSENT] * (k - len(e.sequences)) for e in examples]
    labels = torch.tensor([e.label for e in examples])
    return Features(torch.stack(padded), torch.tensor(extract), labels, share)
