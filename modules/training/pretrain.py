"""Pre-training: tokens -> checkpoint (GPT-1 paper, section 3.1 and 4.1; GPT-2 paper, section 2).

PretrainConfig, its LightningModule and its LightningDataModule, and `pretrain`, which runs them in
this process. Start it through modules.training.fit to have it in a process of its own.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from modules import tokenizer as bpe
from modules.corpus.token_file import read_index
from modules.files import Progress, silent, write_json, write_jsonl
from modules.model import checkpoint
from modules.model.base import Decoder
from modules.training import loop, ranks
from modules.training.config import PretrainConfig
from modules.training.corpora import Corpora, HeldOut, identities, named
from modules.training.loop import Emit, Safety
from modules.training.order import Steps, loader
from modules.training.spikes import go_back, position
from modules.training.spikes import limit as spike_limit
from modules.training.state import State, check_finite
from modules.training.step import Training, environment, rank_of, weights_of
from modules.training.transfer import rescale
from modules.training.windows import Rows, cut, inputs_and_targets

log = logging.getLogger(__name__)


WHOLE_SPLIT = 4096  # windows: the last word is spoken on all of a held-out split up to this size


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


def pretrain(
    tokens: Path | Mapping[str, Path],
    tokenizer: Path,
    out: Path,
    config: PretrainConfig,
    *,
    progress: Progress = silent,
    emit: Emit | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> dict[str, int] | None:
    """Train on tokens/ directories and write a checkpoint/ directory; None when stopped early.

    Checkpoints of the training state lie in out/state while it runs; a later call goes on from the
    newest one that verifies.

    Args:
        tokens: one directory, or several by name, mixed as the config says.
        emit: called with an event at most every second.
        stopping: asked after each step; True: save and return.

    Raises:
        ValueError: tokens, tokenizer and config do not fit together.
        FloatingPointError: too many non-finite steps in a row.
    """
    paths = named(tokens, config)
    for directory in paths.values():
        check_vocabulary(directory, tokenizer, config)
    safety = Safety(
        folder=out / "state",
        fingerprint=loop.fingerprint(config, *identities(paths)),
        emit=emit or (lambda event: progress(event["step"], event["of"], _note(event))),
        stopping=stopping,
    )
    if counts := loop.finished(out, safety):
        return counts
    saved = loop.prepare(config, safety)
    corpora = Corpora(paths, config)
    module = train(
        begin(corpora, config, saved),
        corpora,
        safety,
        keep_as=lambda module: snapshot(module, tokenizer, out / f"snapshots/{module.done:08d}"),
    )
    if module is None:
        return None
    total = module.total
    counts = {
        "steps": total,
        "tokens": config.tokens_before(total),
        "parameters": config.model.n_params,
    }
    module.model = ranks.whole_model(module.model)
    if ranks.is_first():
        module.to(config.device_kind)  # Lightning has taken it back to the CPU
        module.val = corpora.held_out(WHOLE_SPLIT, last=True)
        whole = module.validate()
        facts = training_facts(module) | {
            "held_out_loss": whole.pop("val_loss", None),
            "held_out_losses": {k.removeprefix("val_loss/"): v for k, v in whole.items()},
            "epochs": corpora.epochs(total),
        }
        write_checkpoint(module, tokenizer, out)
        loop.finish(out, facts, counts, safety)
    return counts


def train(
    module: PretrainModule, corpora: Corpora, safety: Safety, *, keep_as: Callable[..., None]
) -> PretrainModule | None:
    """Train to the end, back before spikes if need be; None when stopped early."""
    config = module.config
    while True:
        module.keep_as = keep_as
        data = PretrainData(
            corpora.rows, config, start=module.done, stop=module.total, left_out=module.left_out
        )
        val_every, before = config.val_every, config.tokens_before
        if not loop.run(module, data, config, safety, val_every=val_every, tokens=before):
            return None
        if module.back_to is None:
            return module
        spikes, left_out = module.spikes, module.left_out
        module = begin(corpora, config, loop.prepare(config, safety))
        module.spikes, module.left_out = spikes, left_out


def begin(corpora: Corpora, config: PretrainConfig, saved: State | None) -> PretrainModule:
    """Return the module as the run begins, or as a checkpoint left it."""
    model = checkpoint.build(config.model).to(config.weight_dtype)
    rescale(model, config.optim)
    held_out = corpora.held_out(config.val_windows)
    total = config.total_steps(corpora.rows.per_epoch)
    module = PretrainModule(model, config, held_out, total=total)
    if saved is not None:
        module.restore(saved)
    return module


def write_checkpoint(module: PretrainModule, tokenizer: Path, out: Path) -> None:
    """Write a checkpoint/ directory's config, weights, tokenizer and loss curve.

    Raises:
        FloatingPointError: the weights are not finite; nothing was written.
    """
    model = ranks.whole_model(module.model)
    if not ranks.is_first():
        return
    check_finite(weights_of(model), str(out))
    out.mkdir(parents=True, exist_ok=True)
    bpe.load(tokenizer).save(out / "tokenizer")
    write_jsonl(out / "curve.jsonl", module.curve)
    checkpoint.save(model, out)


def snapshot(module: PretrainModule, tokenizer: Path, out: Path) -> None:
    """Write the checkpoint/ directory of a step on the way (all ranks call it)."""
    write_checkpoint(module, tokenizer, out)
    if ranks.is_first():
        write_json(out / loop.FACTS, training_facts(module))


def training_facts(module: PretrainModule) -> dict[str, Any]:
    """Return what training.json says about a run; nothing in it depends on the clock."""
    config = module.config
    losses = [row for row in module.curve if "val_loss" in row]
    return {
        "config": config.model_dump(mode="json"),
        "steps": module.done,
        "tokens": config.tokens_before(module.done),
        "seed": config.seed,
        "train_loss": next((r["loss"] for r in reversed(module.curve) if "loss" in r), None),
        "val_loss": losses[-1]["val_loss"] if losses else None,
        "best_val_loss": min((r["val_loss"] for r in losses), default=None),
        "precision": config.real_precision,
        "skipped_steps": module.skipped,
        "spikes": module.spikes,
        "left_out": module.left_out,
        "exact": module.exact,
        "environment": environment(config),
    }


def check_vocabulary(tokens: Path, tokenizer: Path, config: PretrainConfig) -> None:
    """Refuse tokens that the model has no row for, or that another tokenizer made.

    Raises:
        ValueError: naming both sides.
        FileNotFoundError: an input is not there.
    """
    index = read_index(tokens)
    if index["tokenizer_sha256"] != bpe.load(tokenizer).sha256:
        raise ValueError(f"{tokens} was not encoded with the tokenizer in {tokenizer}")
    if index["vocab_size"] > config.model.vocab_size:
        raise ValueError(
            f"{tokens} has token ids up to {index['vocab_size']}, model.vocab_size is "
            f"{config.model.vocab_size}: set it to {index['vocab_size']} or more"
        )


def _note(event: dict[str, Any]) -> str:
    return ", ".join(f"{k} {event[k]:.4g}" for k in ("loss", "val_loss") if k in event)
