"""Model selection and early stopping, as functions of the validations so far (gpt1.md 4.1)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from modules.model.heads import HeadConfig
from modules.task import Metric
from modules.training.transform import Encoded
from modules.training.tuned import answer
from modules.training.tuning_config import FinetuneConfig

RELEASE_UPDATES = (1000, 2000, 4000, 8000, 16000, 32000)  # train.py: of the first epoch


def validation(
    examples: Sequence[Encoded], given: Sequence[np.ndarray], head: HeadConfig, metric: Metric
) -> tuple[float, float]:
    """Return the metric of what the model gives for each example, and the mean loss.

    The loss is the negative log-likelihood of the label; for scores, the squared error.
    """
    truth = [e.label for e in examples]
    guesses = [answer(row, head) for row in given]
    if head.scale:
        loss = np.square(np.subtract(guesses, truth)).mean()
    else:
        chosen = [row[int(label)] for row, label in zip(given, truth, strict=True)]
        loss = -np.log(np.maximum(chosen, 1e-30)).mean()
    value = np.nan_to_num(metric(guesses, truth))  # the same guess for all correlates with nothing
    return float(value), float(loss)


def also_at(per_epoch: int) -> frozenset[int]:
    """Return the updates of the first epoch after which the release validates too."""
    return frozenset(step for step in RELEASE_UPDATES if step < per_epoch)


def quality(row: dict[str, Any], headline: str, config: FinetuneConfig) -> float:
    """Return what selection maximises in a row of validation numbers."""
    value: float = -row["val_loss"] if config.select == "loss" else row[headline]
    return value


def since_best(qualities: Sequence[float]) -> int:
    """Return how many validations came after the (first) best one."""
    return len(qualities) - 1 - int(np.argmax(qualities)) if qualities else 0
