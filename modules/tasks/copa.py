"""COPA: which of two sentences is the cause, or the result, of a third?

In the announcement of GPT-1, not in the paper; how it was put to the model is not said. The
question is the set's own wording (Roemmele et al. 2011).
"""

from modules.evaluation.metrics import accuracy
from modules.rows import Row
from modules.task import Example, Task, row_id

QUESTIONS = {"cause": "What was the CAUSE of this?", "effect": "What happened as a RESULT?"}


def alternatives(rows: list[Row]) -> list[Example]:
    """Make rows into one sequence per alternative: S premise question D alternative E."""
    return [
        Example(
            row_id(row, i),
            tuple((f"{row['premise']} {question(row, i)}", row[c]) for c in ("choice1", "choice2")),
            row["label"],
        )
        for i, row in enumerate(rows)
    ]


def question(row: Row, number: int) -> str:
    """Return what is asked of the premise."""
    if row["question"] not in QUESTIONS:
        raise ValueError(
            f"copa, row {row_id(row, number)}: column 'question' is {row['question']!r}; "
            f"allowed: {', '.join(QUESTIONS)}"
        )
    return QUESTIONS[row["question"]]


TASK = Task(
    name="copa",
    format="multiple_choice",
    version=1,
    hub="aps/super_glue copa",
    key="idx",
    columns=("premise", "choice1", "choice2", "question", "label"),
    labels=("choice1", "choice2"),
    splits={"train": "train", "val": "validation", "test": "test"},
    scored=("val",),
    withheld=("test",),
    items=alternatives,
    metrics={"accuracy": accuracy},
    paper="GPT-1's announcement; section 3.3 for the format",
    reference={"GPT-1": 78.6},
    note="on SuperGLUE's validation (100 rows), which also chose the best epoch: its test labels "
    "are withheld; the announcement's number is of the set's own 500 test rows",
)
