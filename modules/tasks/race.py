"""RACE: examinations' questions about a text, four answers each (GPT-1, Table 3).

Trained on middle and high school's together, and scored on all and on either; whether the paper's
62.9 and 57.4 are of one model it does not say (race_middle and race_high train apart).
"""

from modules.evaluation.metrics import accuracy
from modules.rows import Row
from modules.task import Items, Task, choose

COLUMNS = ("article", "question", "options", "answer")
LABELS = ("A", "B", "C", "D")
SPLITS = {"train": "train", "val": "validation", "test": "test"}
ITEMS: Items = choose("article", "question", "options")


def middle(rows: list[Row]) -> list[Row]:
    """Return the rows of middle school examinations."""
    return [row for row in rows if row["example_id"].startswith("middle")]


def high(rows: list[Row]) -> list[Row]:
    """Return the rows of high school examinations."""
    return [row for row in rows if row["example_id"].startswith("high")]


TASK = Task(
    name="race",
    format="multiple_choice",
    version=1,
    hub="ehovy/race all",
    columns=("example_id", *COLUMNS),
    lists=("options",),
    label="answer",
    labels=LABELS,
    splits={**SPLITS, "test_middle": "test", "test_high": "test"},
    pick={"test_middle": middle, "test_high": high},
    scored=("test", "test_middle", "test_high"),
    items=ITEMS,
    metrics={"accuracy": accuracy},
    paper="GPT-1 section 3.3, Figure 1; Table 3",
    reference={"GPT-1": 59.0, "GPT-1, middle": 62.9, "GPT-1, high": 57.4},
)
