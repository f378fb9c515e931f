"""Fine-tuning on one task: checkpoint + labelled rows -> tuned/ (GPT-1 paper, sections 3.2 to 4.1).

FinetuneConfig, its LightningModule and its LightningDataModule, and `finetune`, which runs them in
this process. The loss is L3 = L2 + lambda * L1 as the release computes it (gpt1.md 4.2).
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from modules import tasks
from modules import tokenizer as bpe
from modules.evaluation.metrics import accuracy
from modules.files import Progress, sha256, silent, write_json, write_jsonl
from modules.model import checkpoint
from modules.model.heads import TaskModel
from modules.task import FINETUNE_FORMATS, Metric, Row, Task, load_split, split_files
from modules.training import diagnosis, loop, lora, objective, ranks, selection, tuned
from modules.training.build import build
from modules.training.loop import Emit, Safety
from modules.training.objective import Features
from modules.training.rows import FinetuneData
from modules.training.state import check_finite
from modules.training.step import Training, environment, put_weights, weights_of
from modules.training.transform import (
    N_SPECIAL,
    Batch,
    Encoded,
    encode,
    sample,
    within,
)
from modules.training.tuning_config import FinetuneConfig

log = logging.getLogger(__name__)

ACCURACY = {"accuracy": accuracy}


class FinetuneModule(Training):
    """A decoder with a head on one task's sequences."""

    model: TaskModel
    config: FinetuneConfig
    plain_loss = True

    def __init__(
        self,
        model: TaskModel,
        config: FinetuneConfig,
        val: Sequence[Encoded],
        *,
        total: int,
        metrics: Mapping[str, Metric] = ACCURACY,
    ) -> None:
        """Take the model, the validation examples and the task's metrics, the headline first."""
        super().__init__(model, config.optim, total=total, seed=config.seed)
        self.config, self.val = config, val
        name, self.metric = next(iter(metrics.items()))
        self.headline = f"val_{name}"
        if config.compile:
            model.decoder.compile()

    def micro_loss(self, batch: Batch | Features) -> Tensor:
        """Return this micro-batch's part of the loss of the whole batch."""
        if isinstance(batch, Features):
            return objective.feature_loss(self.model, batch)
        return objective.loss(self.model, self.config, batch, step=self.done)

    def validate(self) -> dict[str, float]:
        """Score the validation rows; keep the weights where selection says so."""
        given = self.predict(self.val)
        value, loss = selection.validation(self.val, given, self.model.config, self.metric)
        result = {self.headline: value, "val_loss": loss}
        if self._better(result):
            self.best = {**result, "step": self.done}
            self.best_weights = {
                name: t.to("cpu", copy=True) for name, t in weights_of(self.model).items()
            }
        return result

    def _better(self, result: dict[str, float]) -> bool:
        if not self.best or self.config.select == "last":
            return True
        return self._quality(result) > self._quality(self.best)

    def _quality(self, row: dict[str, Any]) -> float:
        return selection.quality(row, self.headline, self.config)

    @property
    def over(self) -> bool:
        """Whether no step is left, or the last `patience` validations were no better."""
        rows = [row for row in self.curve if "val_loss" in row]
        late = selection.since_best([self._quality(row) for row in rows])
        return super().over or late >= (self.config.patience or math.inf)

    def predict(self, examples: Sequence[Encoded]) -> list[np.ndarray]:
        """Return the class (or answer) probabilities of each example, in the order given."""
        limit = 4 * self.config.tokens_per_micro_batch  # no gradients: room for more
        with loop.autocast(self.config):
            return tuned.probabilities(self.model, examples, limit=limit)


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
    model = build(checkpoint, spec, config).to(config.weight_dtype)
    tokenizer = bpe.load(checkpoint / "tokenizer")
    sets, no_gold = {}, {}
    for split in [s for s in spec.splits if s not in spec.withheld]:
        found = load_split(spec, data, split)
        sets[split] = _encoded(spec, found.rows, split, tokenizer, model, config)
        no_gold[split] = found.no_gold
    train = sample(sets["train"], config.max_train_examples, config.seed)
    train = within(train, config.max_train_tokens, config.seed)
    val = sample(sets["val"], config.max_val_examples, config.seed)
    n_batch = min(config.batch_size, len(train))
    if n_batch < config.ranks:
        raise ValueError(f"{len(train)} training rows are too few for {config.ranks} processes")
    per_epoch = len(train) // n_batch
    total = per_epoch * config.epochs
    module = FinetuneModule(model, config, val, total=total, metrics=spec.metrics)
    if saved is not None:
        module.restore(saved)
    states = _states(model, train, config) if config.use == "features" else None
    loader = FinetuneData(train, config, start=module.done, stop=total, states=states)
    tokens = sum(len(s) for e in train for s in e.sequences) * n_batch // len(train)
    if not loop.run(
        module,
        loader,
        config,
        safety,
        val_every=per_epoch,
        val_also=selection.also_at(per_epoch),
        tokens=lambda step: step * tokens,
    ):
        return None
    counts = {
        "steps": module.done,
        "train_examples": len(train),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    if ranks.is_first():
        put_weights(model, module.best_weights)
        lora.merge(model.decoder)
        model.to(config.device_kind)  # Lightning has taken it back to the CPU
        _write(module, spec, tokenizer, {split: sets[split] for split in spec.scored}, out)
        whole = tuned.prediction_rows(sets["val"], module.predict(sets["val"]), model.config)
        diagnosis.write(out, spec, data, whole, config)
        loop.finish(out, _facts(module, config, sets, no_gold), counts, safety)
    return counts


def _states(
    model: TaskModel, examples: Sequence[Encoded], config: FinetuneConfig
) -> dict[Encoded, Tensor]:
    """Return what the frozen decoder gives for the training rows."""
    model.to(config.device_kind)
    with loop.autocast(config):
        return objective.read_states(model, examples, limit=4 * config.tokens_per_micro_batch)


def _encoded(
    task: Task,
    rows: list[Row],
    split: str,
    tokenizer: bpe.Tokenizer,
    model: TaskModel,
    config: FinetuneConfig,
) -> list[Encoded]:
    size = model.decoder.config
    longest = min(config.max_length or size.n_positions, size.n_positions)
    examples = task.items(rows)
    first = size.vocab_size - N_SPECIAL
    encoded = encode(
        examples,
        tokenizer,
        task.format,
        first=first,
        longest=longest,
        truncate=config.truncate,
    )
    if cut := sum(e.cut for e in encoded):
        log.info("%s, %s: %d of %d examples cut to fit", task.name, split, cut, len(encoded))
    return encoded


def _facts(
    module: FinetuneModule,
    config: FinetuneConfig,
    sets: dict[str, list[Encoded]],
    no_gold: dict[str, int],
) -> dict[str, Any]:
    """Return what training.json says about the run; nothing in it depends on the clock."""
    return {
        "config": config.model_dump(mode="json"),
        "steps": module.done,
        "seed": config.seed,
        "best": module.best,
        "stopped_early": module.done < module.total,
        "precision": config.real_precision,
        "examples": {split: len(examples) for split, examples in sets.items()},
        "cut": {split: sum(e.cut for e in examples) for split, examples in sets.items()},
        "cut_rows": {split: [e.id for e in examples if e.cut] for split, examples in sets.items()},
        "no_gold": no_gold,
        "skipped_steps": module.skipped,
        "exact": module.exact,
        "environment": environment(config),
    }


def _write(
    module: FinetuneModule,
    task: Task,
    tokenizer: bpe.Tokenizer,
    scored: dict[str, list[Encoded]],
    out: Path,
) -> None:
    """Write the tuned/ directory: weights, task, predictions, scores and curve."""
    check_finite(weights_of(module.model), str(out))
    scores = []
    for number, (split, examples) in enumerate(scored.items()):
        predictions = tuned.prediction_rows(examples, module.predict(examples), module.model.config)
        write_jsonl(out / f"predictions{f'-{split}' if number else ''}.jsonl.zst", predictions)
        scores += tuned.scores(task, split, predictions, module.config)
    write_json(out / "scores.json", scores)
    write_json(out / "task.json", tuned.description(task, module.model, module.config))
    write_jsonl(out / "curve.jsonl", module.curve)
    tokenizer.save(out / "tokenizer")
    checkpoint.save(module.model, out)


def fingerprint(config: FinetuneConfig, name: str, task: Task, directory: Path, data: Path) -> str:
    """Return a hash of everything the result follows from."""
    weights = [directory / checkpoint.CONFIG, directory / checkpoint.WEIGHTS]
    hashes = [sha256(path) for path in (*weights, *split_files(task, data))]
    return loop.fingerprint(config, name, str(task.version), *hashes)
