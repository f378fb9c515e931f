"""What a fine-tuned model's mistakes and probabilities are like: written beside its scores.

validation.json holds the task's scores on the whole validation split (what versions of one model
are compared by), diagnosis.json calibration, confusion and the worst mistakes of the scored split,
example.json the fields of one row.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modules.evaluation import calibration
from modules.files import read_jsonl, write_json, write_jsonl
from modules.task import Row, Task, load_rows
from modules.training import tuned
from modules.training.tuning_config import FinetuneConfig

N_MISTAKES = 10
EXCERPT = 300  # characters of a text that are shown
VALIDATION = "predictions-val.jsonl.zst"


def write(out: Path, task: Task, data: Path, validation: list[Row], config: FinetuneConfig) -> None:
    """Complete a tuned/ directory that holds its scores and predictions.

    Args:
        validation: rows of `tuned.prediction_rows` for the whole validation split.
    """
    split = json.loads((out / "scores.json").read_text())[0]["split"]
    predictions = list(read_jsonl(out / "predictions.jsonl.zst"))
    rows = load_rows(task, data, split)
    write_jsonl(out / VALIDATION, validation)
    write_json(out / "validation.json", tuned.scores(task, "val", validation, config))
    write_json(out / "example.json", fields(task, rows[0]))
    if task.scale is None:  # a score has no classes
        write_json(out / "diagnosis.json", diagnose(task, split, predictions, validation, rows))


def fields(task: Task, row: Row) -> Row:
    """Return what the model reads of a row."""
    return {column: row[column] for column in task.columns if column != task.label}


def diagnose(
    task: Task, split: str, predictions: list[Row], validation: list[Row], rows: list[Row]
) -> dict[str, Any]:
    """Return diagnosis.json; `rows` are those that were predicted, in the same order."""
    probabilities, labels = arrays(predictions)
    names = task.labels or [f"answer {i + 1}" for i in range(probabilities.shape[1])]
    found = calibration.diagnosis(probabilities, labels, names, arrays(validation))
    wrong = calibration.worst(probabilities, labels, N_MISTAKES)
    return {
        **found,
        "task": task.name,
        "split": split,
        "n_validation": len(validation),
        "mistakes": [mistake(task, predictions[i], rows[i], names) for i in wrong],
    }


def arrays(predictions: list[Row]) -> tuple[calibration.Array, calibration.Whole]:
    """Return probabilities (N, K) and labels (N,) of prediction rows."""
    labels = np.array([row["label"] for row in predictions], dtype=np.int64)
    return calibration.stack([row["probabilities"] for row in predictions]), labels


def mistake(task: Task, prediction: Row, row: Row, names: Sequence[str]) -> dict[str, Any]:
    """Return one wrong answer with the beginnings of its texts."""
    return {
        "id": prediction["id"],
        "truth": names[prediction["label"]],
        "prediction": names[prediction["prediction"]],
        "confidence": max(prediction["probabilities"]),
        "texts": {name: excerpt(value) for name, value in fields(task, row).items()},
    }


def excerpt(value: Any) -> str:
    """Return the beginning of a field's text, or of each of its texts."""
    if isinstance(value, list):
        return "\n".join(f"{i}. {excerpt(text)}" for i, text in enumerate(value, 1))
    text = str(value)
    return text if len(text) <= EXCERPT else text[:EXCERPT] + " ..."
