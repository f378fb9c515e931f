"""How far generated answers can be believed (GPT-2, section 3.8).

Confidence is the probability of the whole generated answer. The paper has the accuracy of the most
confident 1 % and lists the 30 most confident answers; the bins are those of a reliability diagram.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from modules.evaluation.calibration import BINNINGS, bins, expected_error
from modules.task import Metric, Row

CONFIDENT = (1, 10)  # per cent of the answers; GPT-2, section 3.8 has 1
LISTED = 30  # GPT-2, Table 5


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Return answers, the most confident first."""
    return sorted(rows, key=lambda row: (-row["logprob"], row["id"]))


def most_confident(rows: Sequence[Row]) -> dict[int, list[Row]]:
    """Return the most confident answers by per cent, where there are any."""
    order = ranked(rows)
    tops = {percent: order[: len(order) * percent // 100] for percent in CONFIDENT}
    return {percent: top for percent, top in tops.items() if top}


def reliability_of(rows: Sequence[Row], metric: Metric) -> dict[str, Any]:
    """Return accuracy and mean confidence by bin of confidence, and the most confident answers."""
    right = np.array([metric([r["prediction"]], [r["reference"]]) == 1 for r in rows])
    confidence = np.exp(np.array([row["logprob"] for row in rows], dtype=np.float64))
    found = {binning: bins(confidence, right, binning) for binning in BINNINGS}
    correct = {row["id"]: bool(ok) for row, ok in zip(rows, right, strict=True)}
    return {
        "n": len(rows),
        "accuracy": float(right.mean()),
        "confidence": float(confidence.mean()),
        "expected_error": {binning: expected_error(b) for binning, b in found.items()},
        "bins": found,
        "most_confident": [
            {
                "id": row["id"],
                "answer": row["prediction"],
                "right": correct[row["id"]],
                "probability": math.exp(row["logprob"]),
            }
            for row in ranked(rows)[:LISTED]
        ],
    }
