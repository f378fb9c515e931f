"""What GLUE's tasks have in common on the hub, and the benchmark's score.

Labels of the test splits are withheld (-1): those can be predicted for the benchmark's server, not
scored. So scores here are of validation, which also chooses the best epoch.
"""

from collections.abc import Mapping
from typing import Any

from modules.task import Format, Task

NOTE = (
    "on validation, which also chose the best epoch: GLUE's test labels are withheld; "
    "the paper's number is of the test server"
)

GLUE: dict[str, tuple[tuple[str, str], ...]] = {
    "cola": (("val", "matthews"),),
    "sst2": (("val", "accuracy"),),
    "mrpc": (("val", "f1"), ("val", "accuracy")),
    "stsb": (("val", "pearson"), ("val", "spearman")),
    "qqp": (("val", "f1"), ("val", "accuracy")),
    "mnli": (("val", "accuracy"), ("val_mismatched", "accuracy")),
    "qnli": (("val", "accuracy"),),
    "rte": (("val", "accuracy"),),
    "wnli": (("val", "accuracy"),),
}
"""The nine tasks of the score, each with its (split, metric), which are averaged first."""


def glue(name: str, form: Format, **fields: Any) -> Task:
    """Return a task of GLUE; `fields` are Task's, and go before what is said here."""
    common: dict[str, Any] = {
        "hub": f"nyu-mll/glue {name}",
        "key": "idx",
        "splits": {"train": "train", "val": "validation", "test": "test"},
        "scored": ("val",),
        "withheld": ("test",),
        "note": NOTE,
    }
    return Task(name=name, format=form, version=1, **(common | fields))


def glue_score(values: Mapping[tuple[str, str, str], float]) -> float:
    """Return the GLUE score: the mean over tasks of the mean over a task's metrics.

    The composition that gives the paper's 72.8 (gpt1.md 5.3).

    Args:
        values: (task, split, metric) -> value.

    Raises:
        ValueError: one is missing.
    """
    wanted = {(task, *place) for task, places in GLUE.items() for place in places}
    if missing := sorted(wanted - values.keys()):
        raise ValueError(f"the GLUE score needs {', '.join(' '.join(key) for key in missing)} too")
    means = [
        sum(values[task, split, metric] for split, metric in places) / len(places)
        for task, places in GLUE.items()
    ]
    return sum(means) / len(means)
