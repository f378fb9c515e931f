"""What fine-tuning leaves behind: predictions, scores, and how raw fields become sequences."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from modules.evaluation.metrics import interval
from modules.model.heads import HeadConfig, TaskModel
from modules.task import Row, Score, Task
from modules.training.transform import N_SPECIAL, SPECIAL_NAMES, Encoded, collate, runs

DIGITS = 6  # significant ones, of stored probabilities


@torch.no_grad()
def probabilities(model: TaskModel, examples: Sequence[Encoded], *, limit: int) -> list[np.ndarray]:
    """Return each example's probabilities (classes,) or (answers,), float64, in the order given.

    Regression has no probabilities: then each is the score (1,).
    """
    training = model.training
    model.eval()
    order = sorted(range(len(examples)), key=lambda i: examples[i].length)
    out: list[np.ndarray] = [np.empty(0)] * len(examples)
    done = 0
    for run in runs([examples[i] for i in order], limit):
        batch = collate(run).to(model.decoder.device)
        logits = model(batch.tokens, batch.extract).double()  # (B, classes) or (B, K)
        given = logits if regression(model.config) else logits.softmax(-1)
        for row, example in zip(given.cpu().numpy(), run, strict=True):
            several = model.config.format == "multiple_choice"
            out[order[done]] = row[: len(example.sequences)] if several else row
            done += 1
    model.train(training)
    return out


def regression(head: HeadConfig) -> bool:
    """Tell whether a head gives one score instead of probabilities."""
    return head.scale is not None and head.score_loss == "squared"


def answer(given: np.ndarray, head: HeadConfig) -> float:
    """Return the chosen index, or the expected score (gpt1.md 4.6), from what a model gives."""
    if head.scale is None:
        return int(given.argmax())
    if regression(head):
        return float(given[0])
    return head.scale[0] + float(given @ np.arange(len(given)))


def prediction_rows(
    examples: Sequence[Encoded], given: Sequence[np.ndarray], head: HeadConfig
) -> list[Row]:
    """Return the rows of predictions.jsonl.zst."""
    return [
        {
            "id": example.id,
            "label": example.label,
            "prediction": answer(row, head),
            "probabilities": [significant(p) for p in row],
        }
        for example, row in zip(examples, given, strict=True)
    ]


def significant(p: float) -> float:
    """Return a probability to six significant digits: a small one keeps its logarithm."""
    return float(f"{p:.{DIGITS}g}")


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
        "selection": f"best validation {config.select}" if config.select != "last" else "last",
    }
    if config.likelihood and task.format == "multiple_choice":
        protocol["answers"] = "head and gain in likelihood"
    if task.note:
        protocol["note"] = task.note
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
            "truncate": config.truncate,
        },
        "lm_weight": config.lm_share,
        "use": config.use,
        "seed": config.seed,
    }
