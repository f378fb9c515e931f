"""Using a fine-tuned model: predictions, scores, and `load_tuned` to predict from raw fields."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modules import tasks
from modules import tokenizer as bpe
from modules.evaluation.metrics import interval
from modules.model.checkpoint import load_task_model
from modules.model.heads import TaskModel
from modules.task import Row, Score, Task
from modules.tokenizer import Tokenizer
from modules.training.transform import N_SPECIAL, SPECIAL_NAMES, Encoded, collate, encode, runs

DIGITS = 6  # of stored probabilities
MAX_TOKENS = 16384  # padded tokens computed at once when predicting


@torch.no_grad()
def probabilities(model: TaskModel, examples: Sequence[Encoded], *, limit: int) -> list[np.ndarray]:
    """Return each example's probabilities (classes,) or (answers,), float64, in the order given."""
    training = model.training
    model.eval()
    order = sorted(range(len(examples)), key=lambda i: examples[i].length)
    out: list[np.ndarray] = [np.empty(0)] * len(examples)
    done = 0
    for run in runs([examples[i] for i in order], limit):
        batch = collate(run).to(model.decoder.device)
        logits = model(batch.tokens, batch.extract).double()  # (B, classes) or (B, K)
        for row, example in zip(logits.softmax(-1).cpu().numpy(), run, strict=True):
            several = model.config.format == "multiple_choice"
            out[order[done]] = row[: len(example.sequences)] if several else row
            done += 1
    model.train(training)
    return out


def prediction_rows(examples: Sequence[Encoded], given: Sequence[np.ndarray]) -> list[Row]:
    """Return the rows of predictions.jsonl.zst."""
    return [
        {
            "id": example.id,
            "label": example.label,
            "prediction": int(row.argmax()),
            "probabilities": [round(float(p), DIGITS) for p in row],
        }
        for example, row in zip(examples, given, strict=True)
    ]


def scores(task: Task, split: str, predictions: list[Row], config: Any) -> list[dict[str, Any]]:
    """Return the task's scores with their intervals, headline first."""
    guesses = [row["prediction"] for row in predictions]
    truth = [row["label"] for row in predictions]
    protocol = {
        "kind": "finetune",
        "use": config.use,
        "lm_weight": config.lm_share,
        "epochs": config.epochs,
        "max_train_examples": config.max_train_examples,
        "seed": config.seed,
        "selection": "best validation accuracy",
    }
    out = []
    for name, metric in task.metrics.items():
        low, high = interval(metric, guesses, truth, seed=config.seed)
        value = metric(guesses, truth)
        score = Score(
            task.name, name, value, len(truth), low, high, split, task.version, dict(protocol)
        )
        out.append(asdict(score))
    return out


def description(task: Task, model: TaskModel, config: Any) -> dict[str, Any]:
    """Return task.json: how raw fields become sequences and numbers become labels."""
    size = model.decoder.config
    first = size.vocab_size - N_SPECIAL
    return {
        "task": task.name,
        "version": task.version,
        "format": task.format,
        "labels": list(task.labels),
        "columns": list(task.columns),
        "transform": {
            "special_tokens": {name: first + i for i, name in enumerate(SPECIAL_NAMES)},
            "longest": min(config.max_length or size.n_positions, size.n_positions),
        },
        "lm_weight": config.lm_share,
        "use": config.use,
        "seed": config.seed,
    }


class Predictor:
    """A fine-tuned model that answers raw rows of its task."""

    def __init__(self, model: TaskModel, tokenizer: Tokenizer, about: dict[str, Any]) -> None:
        """Take the parts of a tuned/ directory; see `load_tuned`."""
        self.model, self.tokenizer, self.about = model, tokenizer, about
        self.task = tasks.get(about["task"])
        self.labels: list[str] = about["labels"]

    def predict(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Return {label, index, probabilities} for each row of raw fields, no label needed.

        `label` is the label's name, or the chosen answer's text.

        Raises:
            ValueError: a row lacks a field; names row and field.
        """
        fields = [c for c in self.about["columns"] if c != "label"]
        for number, row in enumerate(rows, 1):
            if missing := [c for c in fields if row.get(c) is None]:
                raise ValueError(
                    f"row {number}: no {', '.join(missing)}; task {self.task.name} needs "
                    f"{', '.join(fields)}"
                )
        examples = self.task.items([{**row, "label": 0} for row in rows])
        transform = self.about["transform"]
        encoded = encode(
            examples,
            self.tokenizer,
            self.about["format"],
            first=transform["special_tokens"]["start"],
            longest=transform["longest"],
        )
        given = probabilities(self.model, encoded, limit=MAX_TOKENS)
        return [self._answer(row, p) for row, p in zip(rows, given, strict=True)]

    def _answer(self, row: Row, given: np.ndarray) -> dict[str, Any]:
        best = int(given.argmax())
        label = self.labels[best] if self.labels else row["answers"][best]
        shares = [round(float(p), DIGITS) for p in given]
        return {"label": label, "index": best, "probabilities": shares}


def load_tuned(directory: Path, device: str = "cpu") -> Predictor:
    """Open a tuned/ directory for prediction.

    Raises:
        FileNotFoundError: it is not a tuned/ directory.
        ValueError: the task has changed since (another version), or a file is damaged.
    """
    path = directory / "task.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: {directory} is no fine-tuned checkpoint")
    about = json.loads(path.read_text())
    task = tasks.get(about["task"])
    if task.version != about["version"]:
        raise ValueError(
            f"{path}: made for version {about['version']} of task {task.name}, which is now at "
            f"version {task.version}: fine-tune again"
        )
    tokenizer = bpe.load(directory / "tokenizer")
    return Predictor(load_task_model(directory, device), tokenizer, about)
