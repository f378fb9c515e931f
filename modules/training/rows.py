"""The rows of a fine-tuning run in their order, as micro-batches from any step on."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from modules.training import objective
from modules.training.lean_lightning import L
from modules.training.objective import Features
from modules.training.order import Steps, loader, mix, permute
from modules.training.step import rank_of
from modules.training.transform import Batch, Encoded, micro_batches
from modules.training.tuning_config import FinetuneConfig


class FinetuneData(L.LightningDataModule):
    """The training examples in their order, from any step on."""

    def __init__(
        self,
        examples: Sequence[Encoded],
        config: FinetuneConfig,
        *,
        start: int,
        stop: int,
        states: dict[Encoded, Tensor] | None = None,
    ) -> None:
        """Take the examples, and what a frozen decoder makes of them where it is frozen."""
        super().__init__()
        self.examples, self.config, self.start, self.stop = examples, config, start, stop
        self.states = states
        self.batch_size = min(config.batch_size, len(examples))

    def chosen(self, step: int) -> list[Encoded]:
        """Return the whole batch of a step: an epoch reads each example at most once."""
        epoch, place = divmod(step, len(self.examples) // self.batch_size)
        rows = np.arange(place * self.batch_size, (place + 1) * self.batch_size)
        order = permute(rows, len(self.examples), mix(self.config.seed, epoch, 3))
        return [self.examples[i] for i in order]

    def step(self, step: int) -> list[Batch] | list[Features]:
        """Return this rank's micro-batches of one optimizer step."""
        rank, n = rank_of(self.trainer)
        whole, limit = self.chosen(step), self.config.tokens_per_micro_batch
        part = whole[rank::n]
        if self.states is not None:
            share = n * len(part) / len(whole)
            return [objective.feature_batch(part, self.states, share=share)]
        average = self.config.lm_average
        return micro_batches(part, limit, of=whole, ranks=n, lm_average=average)

    def train_dataloader(self) -> DataLoader:
        """Return the loader of all steps that are left (Lightning's hook)."""
        return loader(
            Steps(self.step, start=self.start, stop=self.stop), workers=self.config.workers
        )

    def transfer_batch_to_device(
        self, batch: list[Batch | Features], device: torch.device, dataloader_idx: int
    ) -> list[Batch | Features]:
        """Move the micro-batches (Lightning's hook)."""
        return [part.to(device) for part in batch]
