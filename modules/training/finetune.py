"""Fine-tuning on one task: checkpoint + labelled rows -> tuned/ (GPT-1 paper, sections 3.2 to 4.1).

FinetuneConfig, its LightningModule and its LightningDataModule, and `finetune`, which runs them in
this process. The loss is L3 = L2 + lambda * L1 as the release computes it (gpt1.md 4.2).
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from modules import tasks
from modules import tokenizer as bpe
from modules.files import Progress, sha256, silent, write_json, write_jsonl
from modules.model import checkpoint
from modules.model.base import Decoder
from modules.model.gpt import GPT
from modules.model.heads import HeadConfig, TaskModel
from modules.task import FINETUNE_FORMATS, Task, load_rows, split_files
from modules.training import loop, ranks, tuned
from modules.training.loop import Emit, Safety
from modules.training.order import Steps, loader, mix, permute
from modules.training.state import check_finite
from modules.training.step import Training, environment, put_weights, rank_of, weights_of
from modules.training.transform import (
    N_SPECIAL,
    Batch,
    Encoded,
    encode,
    micro_batches,
    sample,
    within,
)
from modules.training.tuning_config import FinetuneConfig

log = logging.getLogger(__name__)


class FinetuneModule(Training):
    """A decoder with a head on one task's sequences."""

    model: TaskModel
    config: FinetuneConfig

    def __init__(
        self, model: TaskModel, config: FinetuneConfig, val: Sequence[Encoded], *, total: int
    ) -> None:
        """Take the model and the validation examples."""
        super().__init__(model, config.optim, total=total, seed=config.seed)
        self.config, self.val = config, val
        if config.compile:
            model.decoder.compile()

    def micro_loss(self, batch: Batch) -> Tensor:
        """Return this micro-batch's part of L2 + lambda * L1 over the whole batch."""
        weight = self.config.lm_share
        _, task, lm, _ = self.model.losses(
            batch.tokens, batch.extract, batch.labels, lm_weight=weight
        )
        return task * batch.share + lm * (weight * batch.lm_share)

    def validate(self) -> dict[str, float]:
        """Score the validation rows; keep the weights of the (first) best accuracy."""
        probabilities = self.predict(self.val)
        truth = np.array([e.label for e in self.val])
        chosen = np.array([p[label] for p, label in zip(probabilities, truth, strict=True)])
        guesses = np.array([p.argmax() for p in probabilities])
        result = {
            "val_accuracy": float((guesses == truth).mean()),
            "val_loss": float(-np.log(np.maximum(chosen, 1e-30)).mean()),
        }
        if not self.best or result["val_accuracy"] > self.best["val_accuracy"]:
            self.best = {**result, "step": self.done}
            self.best_weights = {
                name: t.to("cpu", copy=True) for name, t in weights_of(self.model).items()
            }
        return result

    def predict(self, examples: Sequence[Encoded]) -> list[np.ndarray]:
        """Return the class (or answer) probabilities of each example, in the order given."""
        limit = 4 * self.config.tokens_per_micro_batch  # no gradients: room for more
        with loop.autocast(self.config):
            return tuned.probabilities(self.model, examples, limit=limit)


class FinetuneData(L.LightningDataModule):
    """The training examples in their order, from any step on."""

    def __init__(
        self, examples: Sequence[Encoded], config: FinetuneConfig, *, start: int, stop: int
    ) -> None:
        super().__init__()
        self.examples, self.config, self.start, self.stop = examples, config, start, stop
        self.batch_size = min(config.batch_size, len(examples))

    def chosen(self, step: int) -> list[Encoded]:
        """Return the whole batch of a step: an epoch reads each example at most once."""
        epoch, place = divmod(step, len(self.examples) // self.batch_size)
        rows = np.arange(place * self.batch_size, (place + 1) * self.batch_size)
        order = permute(rows, len(self.examples), mix(self.config.seed, epoch, 3))
        return [self.examples[i] for i in order]

    def step(self, step: int) -> list[Batch]:
        """Return this rank's micro-batches of one optimizer step."""
        rank, n = rank_of(self.trainer)
        whole, limit = self.chosen(step), self.config.tokens_per_micro_batch
        return micro_batches(whole[rank::n], limit, of=whole, ranks=n)

    def train_dataloader(self) -> DataLoader:
        """Return the loader of all steps that are left (Lightning's hook)."""
        return loader(
            Steps(self.step, start=self.start, stop=self.stop), workers=self.config.workers
        )

    def transfer_batch_to_device(
        self, batch: list[Batch], device: torch.device, dataloader_idx: int
    ) -> list[Batch]:
        """Move the micro-batches (Lightning's hook)."""
        return [part.to(device) for part in batch]


def finetune(
    checkpoint: Path,
    data: Path,
    out: Path,
    config: FinetuneConfig,
    *,
    task: str,
    progress: Progress = silent,
    emit: Emit | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> dict[str, int] | None:
    """Fine-tune a checkpoint/ directory on a task; write a tuned/ directory. None: stopped early.

    Args:
        checkpoint: also needed for use = scratch: its config and tokenizer are used.
        data: the data folder; the task knows its place in it.

    Raises:
        ValueError: the task cannot be fine-tuned on, or a row has a wrong column or label.
    """
    spec = tasks.get(task)
    if spec.format not in FINETUNE_FORMATS:
        raise ValueError(f"task {task} is a {spec.format} task; fine-tuning needs labelled rows")
    safety = Safety(
        folder=out / "state",
        fingerprint=fingerprint(config, task, spec, checkpoint, data),
        emit=emit or (lambda event: progress(event["step"], event["of"], task)),
        stopping=stopping,
    )
    if counts := loop.finished(out, safety):
        return counts
    saved = loop.prepare(config, safety)
    model = build(checkpoint, spec, config)
    tokenizer = bpe.load(checkpoint / "tokenizer")
    sets = {
        split: _encoded(spec, data, split, tokenizer, model, config)
        for split in spec.splits
        if split not in spec.withheld
    }
    train = sample(sets["train"], config.max_train_examples, config.seed)
    train = within(train, config.max_train_tokens, config.seed)
    val = sample(sets["val"], config.max_val_examples, config.seed)
    n_batch = min(config.batch_size, len(train))
    if n_batch < config.ranks:
        raise ValueError(f"{len(train)} training rows are too few for {config.ranks} processes")
    per_epoch = len(train) // n_batch
    module = FinetuneModule(model, config, val, total=per_epoch * config.epochs)
    if saved is not None:
        module.restore(saved)
    loader = FinetuneData(train, config, start=module.done, stop=module.total)
    tokens = sum(len(s) for e in train for s in e.sequences) * n_batch // len(train)
    if not loop.run(
        module, loader, config, safety, val_every=per_epoch, tokens=lambda step: step * tokens
    ):
        return None
    counts = {
        "steps": module.total,
        "train_examples": len(train),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    if ranks.is_first():
        put_weights(model, module.best_weights)
        model.to(config.device_kind)  # Lightning has taken it back to the CPU
        split = "test" if "test" in sets else "val"
        _write(module, spec, tokenizer, sets[split], split, out)
        loop.finish(out, _facts(module, config, sets), counts, safety)
    return counts


def build(directory: Path, task: Task, config: FinetuneConfig) -> TaskModel:
    """Return the model to fine-tune: decoder, three new tokens, head; drawn by the seed."""
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
    head = HeadConfig(
        format=task.format,
        n_classes=max(1, len(task.labels)),
        dropout=config.clf_dropout,
        pair=config.pair,
    )
    model = TaskModel(fresh, head)
    model.init_head(generator)
    fresh.requires_grad_(config.use != "features")
    return model.train()


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


def _encoded(
    task: Task,
    data: Path,
    split: str,
    tokenizer: bpe.Tokenizer,
    model: TaskModel,
    config: FinetuneConfig,
) -> list[Encoded]:
    size = model.decoder.config
    longest = min(config.max_length or size.n_positions, size.n_positions)
    examples = task.items(load_rows(task, data, split))
    first = size.vocab_size - N_SPECIAL
    encoded = encode(examples, tokenizer, task.format, first=first, longest=longest)
    if cut := sum(e.cut for e in encoded):
        log.info("%s, %s: %d of %d examples cut to fit", task.name, split, cut, len(encoded))
    return encoded


def _facts(
    module: FinetuneModule, config: FinetuneConfig, sets: dict[str, list[Encoded]]
) -> dict[str, Any]:
    """Return what training.json says about the run; nothing in it depends on the clock."""
    return {
        "config": config.model_dump(mode="json"),
        "steps": module.done,
        "seed": config.seed,
        "best": module.best,
        "precision": config.real_precision,
        "examples": {split: len(examples) for split, examples in sets.items()},
        "cut": {split: sum(e.cut for e in examples) for split, examples in sets.items()},
        "skipped_steps": module.skipped,
        "exact": module.exact,
        "environment": environment(config),
    }


def _write(
    module: FinetuneModule,
    task: Task,
    tokenizer: bpe.Tokenizer,
    examples: list[Encoded],
    split: str,
    out: Path,
) -> None:
    """Write the tuned/ directory: weights, task, predictions, scores and curve."""
    check_finite(weights_of(module.model), str(out))
    probabilities = module.predict(examples)
    predictions = tuned.prediction_rows(examples, probabilities)
    write_jsonl(out / "predictions.jsonl.zst", predictions)
    write_json(out / "scores.json", tuned.scores(task, split, predictions, module.config))
    write_json(out / "task.json", tuned.description(task, module.model, module.config))
    write_jsonl(out / "curve.jsonl", module.curve)
    tokenizer.save(out / "tokenizer")
    checkpoint.save(module.model, out)


def fingerprint(config: FinetuneConfig, name: str, task: Task, directory: Path, data: Path) -> str:
    """Return a hash of everything the result follows from."""
    weights = [directory / checkpoint.CONFIG, directory / checkpoint.WEIGHTS]
    hashes = [sha256(path) for path in (*weights, *split_files(task, data))]
    return loop.fingerprint(config, name, str(task.version), *hashes)
