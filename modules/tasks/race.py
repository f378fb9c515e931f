"""RACE: examinations' questions about a text, four answers each (GPT-1, Table 3).

Trained on middle and high school's together, and scored on all and on either; whether the paper's
62.9 and 57.4 are of one model it does not say (race_middle and race_high train apart).
"""

from typing import Any

from modules.evaluation.metrics import accuracy
from modules.rows import Row
from modules.task import Task, choose

COLUMNS = ("article", "question", "options", "answer")
SPLITS = {"train": "train", "val": "validation", "test": "test"}


def middle(rows: list[Row]) -> list[Row]:
    """Return the rows of middle school examinations."""
    return [row for row in rows if row["example_id"].startswith("middle")]


def high(rows: list[Row]) -> list[Row]:
    """Return the rows of high school examinations."""
    return [row for row in rows if row["example_id"].startswith("high")]


def race(name: str, exams: str, **fields: Any) -> Task:
    """Return RACE on the hub's rows of these exams."""
    common: dict[str, Any] = {"columns": COLUMNS, "splits": SPLITS}
    return Task(
        name=name,
        format="multiple_choice",
        version=1,
        hub=f"ehovy/race {exams}",
        lists=("options",),
        label="answer",
        labels=("A", "B", "C", "D"),
        items=choose("article", "question", "options"),
        metrics={"accuracy": accuracy},
        paper="GPT-1 section 3.3, Figure 1; Table 3",
        **(common | fields),
    )


TASK = race(
    "race",
    "all",
    columns=("example_id", *COLUMNS),
    splits={**SPLITS, "test_middle": "test", "test_high": "test"},
    pick={"test_middle": middle, "test_high": high},
    scored=("test", "test_middle", "test_high"),
    reference={"GPT-1": 59.0, "GPT-1, middle": 62.9, "GPT-1, high": 57.4},
)
