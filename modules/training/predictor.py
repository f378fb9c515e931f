"""Using a fine-tuned model: `load_tuned` opens a tuned/ directory, `Predictor` answers raw rows."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modules import tasks
from modules import tokenizer as bpe
from modules.model.checkpoint import load_task_model
from modules.model.heads import TaskModel
from modules.task import Row, check_columns
from modules.tokenizer import Tokenizer
from modules.training.transform import encode
from modules.training.tuned import answer, probabilities, significant

MAX_TOKENS = 16384  # tokens computed at once
CHUNK = 1024  # rows between two reports of progress


class Predictor:
    """A fine-tuned model that answers raw rows of its task."""

    def __init__(self, model: TaskModel, tokenizer: Tokenizer, about: dict[str, Any]) -> None:
        """Take the parts of a tuned/ directory; see `load_tuned`."""
        self.model, self.tokenizer, self.about = model, tokenizer, about
        self.task = tasks.get(about["task"])
        self.labels: list[str] = about["labels"]
        self.fields = [c for c in self.task.columns if c != self.task.label]

    def problem(self, row: Row) -> str:
        """Say what is wrong with a row, by column; nothing if it can be answered."""
        try:
            check_columns(self.task, row, "", gold=False)
        except ValueError as error:
            return str(error).removeprefix(": ")
        return ""

    def predict(
        self, rows: Sequence[Row], progress: Callable[[int], None] = lambda done: None
    ) -> list[dict[str, Any]]:
        """Return {label, index, probabilities} for each row of raw fields, no label needed.

        `label` is the label's name, or the chosen answer's text.

        Raises:
            ValueError: a row lacks a field or has one of another type; names row and column.
        """
        for number, row in enumerate(rows, 1):
            if wrong := self.problem(row):
                raise ValueError(f"row {number}: {wrong}")
        answers: list[dict[str, Any]] = []
        for begin in range(0, len(rows), CHUNK):
            answers += self._chunk(rows[begin : begin + CHUNK])
            progress(len(answers))
        return answers

    def _chunk(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        examples = self.task.items(
            [{**row, "id": str(i), "label": 0} for i, row in enumerate(rows)]
        )
        transform = self.about["transform"]
        encoded = encode(
            examples,
            self.tokenizer,
            self.about["format"],
            first=transform["special_tokens"]["start"],
            longest=transform["longest"],
            truncate=transform["truncate"],
        )
        given = probabilities(self.model, encoded, limit=MAX_TOKENS)
        return [self._answer(example.texts, p) for example, p in zip(examples, given, strict=True)]

    def _answer(self, texts: Sequence[Sequence[str]], given: np.ndarray) -> dict[str, Any]:
        shares = [significant(p) for p in given]
        if self.task.scale:
            score = answer(given, self.model.config)
            return {
                "label": score,
                "index": round(score - self.task.scale[0]),
                "probabilities": shares,
            }
        best = int(given.argmax())
        label = self.labels[best] if self.labels else texts[best][-1]  # the answer comes last
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
