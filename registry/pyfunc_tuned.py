"""The fine-tuned model that MLflow serves: the task's fields in, label and probabilities out.

Like pyfunc_model.py, MLflow keeps a copy of this file beside the weights.
"""

import math
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from modules.training.predictor import load_tuned


class TaskModel(PythonModel):
    """A fine-tuned checkpoint behind MLflow's `predict`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the tuned checkpoint (safetensors and JSON only)."""
        self.predictor = load_tuned(Path(context.artifacts["checkpoint"]))

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Return label, index and one probability column per label (or answer), row by row.

        Args:
            context: MLflow's; not needed after loading.
            model_input: one column per field of the task, without the label.
            params: none are known.

        Raises:
            ValueError: a field is missing or of another type; names row (from 1) and column.
        """
        rows = [
            {name: plain(value) for name, value in row.items()}
            for row in model_input.to_dict("records")
        ]
        answers = self.predictor.predict(rows)
        n = max((len(answer["probabilities"]) for answer in answers), default=0)
        names = self.predictor.labels or [str(i) for i in range(n)]
        table = [
            [answer["label"], answer["index"], *answer["probabilities"]]
            + [math.nan] * (len(names) - len(answer["probabilities"]))
            for answer in answers
        ]
        header = ["label", "index", *(f"probability_{name}" for name in names)]
        return pd.DataFrame(table, columns=header, index=model_input.index)


def plain(value: Any) -> Any:
    """Return a cell as JSON has it: no array, and None for a hole."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return None if isinstance(value, float) and math.isnan(value) else value


set_model(TaskModel())
