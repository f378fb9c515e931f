"""A sweep over learning rates (and lengths) of fine-tuning, decided by the validation rows alone.

GPT-1 has one rate for most tasks (paper, section 4.1); what a smaller model or another task needs
is found here. The test rows have no say: their score is reported for the chosen trial only.
"""

from collections.abc import Mapping
from itertools import product
from typing import Any

from pydantic import Field, PositiveFloat, PositiveInt

from modules.config import Config
from modules.training.tuning_config import FinetuneConfig

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


class SweepConfig(Config):
    """What is tried."""

    rates: tuple[PositiveFloat, ...] = ()
    """Learning rates; empty: a quarter, half, one, two and four times the run's own."""
    epochs: tuple[PositiveInt, ...] = ()
    """Passes over the training rows, each with every rate; empty: the run's own."""
    patience: int | None = Field(None, ge=1)
    """Stop a trial when so many validations in a row were no better; None: the run's own."""


def trials(training: FinetuneConfig, sweep: SweepConfig) -> dict[str, FinetuneConfig]:
    """Return the trials by name, in the order they are tried in."""
    rates = sweep.rates or tuple(training.optim.lr * factor for factor in FACTORS)
    out = {}
    for rate, epochs in product(rates, sweep.epochs or (training.epochs,)):
        name = f"lr{rate:g}" + (f"-e{epochs}" if sweep.epochs else "")
        out[name] = training.but(
            optim=training.optim.but(lr=rate),
            epochs=epochs,
            patience=sweep.patience or training.patience,
        )
    return out


def best(found: Mapping[str, Mapping[str, Any]], *, by_loss: bool = False) -> str:
    """Return the name of the trial with the best validation: its metric, then its loss.

    Args:
        found: trial -> training.json's `best`.
        by_loss: the loss alone decides (select = loss).

    Raises:
        ValueError: there is none.
    """
    if not found:
        raise ValueError("no trial of the sweep came to an end")

    def quality(name: str) -> tuple[float, ...]:
        loss = -found[name]["val_loss"]
        return (loss,) if by_loss else (metric_of(found[name]), loss)

    return max(found, key=quality)  # the first of equals


def metric_of(validation: Mapping[str, Any]) -> float:
    """Return the headline metric of a validation."""
    (value,) = (v for k, v in validation.items() if k.startswith("val_") and k != "val_loss")
    return float(value)
