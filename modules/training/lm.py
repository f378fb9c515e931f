"""Pre-training as Lightning sees it: the module that learns and the data that it reads.

The objective is GPT-1's (paper, section 3.1, equation 1): the next token, given those before it.
"""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from modules.model.base import Decoder
from modules.training import loop, ranks
from modules.training.config import PretrainConfig
from modules.training.corpora import HeldOut
from modules.training.lean_lightning import L
from modules.training.order import Steps, loader
from modules.training.spikes import go_back, position
from modules.training.spikes import limit as spike_limit
from modules.training.step import Training, rank_of
from modules.training.windows import Rows, cut, inputs_and_targets

log = logging.getLogger(__name__)


class PretrainModule(Training):
    """Next-token prediction on windows of the corpus."""

    model: Decoder
    config: PretrainConfig
    plain_loss = True

    def __init__(self, model: Decoder, config: PretrainConfig, val: HeldOut, *, total: int) -> None:
        """Take the model and the sets of held-out windows."""
        super().__init__(model, config.optim, total=total, seed=config.seed)
        self.config, self.val = config, val
        self.keep_as: Callable[[PretrainModule], None] = lambda module: None  # writes a snapshot
        if config.compile:
            model.compile()

    def micro_loss(self, batch: Tensor) -> Tensor:
        """Return this micro-batch's share of the nats per token; windows (B, T + 1)."""
        inputs, targets = inputs_and_targets(batch)
        share = 1 / self.config.micro_batches(self.done)
        if self.config.ranks > 1 and self.config.sampling == "documents":  # some are not full
            scored = (targets >= 0).sum()
            share *= float(scored / ranks.mean(self.trainer.strategy, scored))
        return self.model.lm_loss(inputs, targets, share=share)

    def keep(self) -> None:
        """Write a snapshot where the config asks for one; note the best checkpoint to be saved."""
        if self.done in self.config.snapshots:
            self.keep_as(self)
        row = self.curve[-1] if self.curve and self.curve[-1]["step"] == self.done else {}
        loss, best = (values.get("val_loss", math.inf) for values in (row, self.best))
        if self.done % self.config.checkpoint_every == 0 and loss < best:
            self.best = {"step": self.done, "val_loss": loss}

    def watch(self, loss: float) -> None:
        """Record a spike; go back before it while the config allows."""
        spikes, limit = self.config.spikes, spike_limit(self.late, self.config.spikes)
        if limit is not None and loss > limit:
            log.warning("step %d: loss %.4g is a spike (above %.4g)", self.done + 1, loss, limit)
            spike: dict[str, Any] = {"step": self.done + 1, "loss": loss, "limit": limit}
            if sum("back_to" in earlier for earlier in self.spikes) < spikes.rollbacks:
                before = self.config.micro_batches_before
                way = go_back(self.done, self.left_out, spikes, before)
                self.back_to, self.left_out = way
                spike["back_to"] = self.back_to
            self.spikes.append(spike)
        self.late = [*self.late, loss][-spikes.window :]

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the mean loss over all held-out windows and over each set, in nats per token."""
        self.model.eval()
        with loop.autocast(self.config):
            losses = {name: self.mean_loss(windows) for name, windows in self.val.windows.items()}
        self.model.train()
        return self.val.numbers(losses)

    def mean_loss(self, windows: Tensor) -> float:
        """Return the mean loss over the scored tokens of windows (N, T + 1), a batch at a time."""
        total, n = 0.0, 0
        for part in windows.split(self.config.batch_size):
            inputs, targets = inputs_and_targets(part.to(self.device))
            scored = int((targets >= 0).sum())
            total, n = total + float(self.model.lm_loss(inputs, targets)) * scored, n + scored
        return total / n


class PretrainData(L.LightningDataModule):
    """Rows of the training split in their order, from any step on."""

    def __init__(
        self,
        rows: Rows,
        config: PretrainConfig,
        *,
        start: int,
        stop: int,
        left_out: Sequence[tuple[int, int]] = (),
    ) -> None:
        super().__init__()
        self.rows, self.config, self.start, self.stop = rows, config, start, stop
        self.left_out = list(left_out)

    def micro_batch(self, number: int) -> Tensor:
        """Return this rank's rows (B / ranks, T + 1) of a micro-batch of the run, int64."""
        size = self.config.batch_size
        rank, ranks = rank_of(self.trainer)
        own = np.arange(rank * size // ranks, (rank + 1) * size // ranks) + number * size
        return torch.from_numpy(self.rows.rows(own))

    def step(self, step: int) -> list[Tensor]:
        """Return the micro-batches of one optimizer step."""
        first, stop = (self.config.micro_batches_before(s) for s in (step, step + 1))
        context = self.config.window_at(step)
        numbers = (position(number, self.left_out) for number in range(first, stop))
        return [cut(self.micro_batch(number), context) for number in numbers]

    def train_dataloader(self) -> DataLoader:
        """Return the loader of all steps that are left (Lightning's hook)."""
        steps = Steps(self.step, start=self.start, stop=self.stop)
        return loader(steps, workers=self.config.workers, pin=self.config.device_kind == "cuda")
