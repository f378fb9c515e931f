"""Definite pronouns: which of two names does a pronoun stand for? (GPT-1, section 5, Figure 2.)

Never trained on. Each candidate replaces the pronoun, at its first place in the sentence; the one
after which the rest of the sentence is likelier wins. The paper names the set DPRD, "like Winograd
schemas" (Rahman & Ng 2012).
"""

import re

from modules.evaluation.metrics import accuracy
from modules.rows import Row
from modules.task import Choice, Task, row_id


def fillings(row: Row, number: int) -> tuple[tuple[str, str], ...]:
    """Return (sentence up to and with the candidate, the rest of it) per candidate."""
    place = re.search(rf"\b{re.escape(row['pronoun'])}\b", row["sentence"])
    if place is None:
        raise ValueError(
            f"dprd, row {row_id(row, number)}: column 'pronoun' is {row['pronoun']!r}, "
            "which is not in column 'sentence'"
        )
    before, after = row["sentence"][: place.start()], row["sentence"][place.end() :]
    return tuple((before + candidate, after) for candidate in row["candidates"])


def choices(rows: list[Row]) -> list[Choice]:
    """Make rows into candidates: the rest of the sentence, given all up to the candidate."""
    return [Choice(row_id(r, i), fillings(r, i), r["label"]) for i, r in enumerate(rows)]


TASK = Task(
    name="dprd",
    format="choice",
    version=1,
    hub="community-datasets/definite_pronoun_resolution plain_text",
    columns=("sentence", "pronoun", "candidates", "label"),
    lists=("candidates",),
    labels=("0", "1"),
    splits={"train": "train", "test": "test"},
    items=choices,
    metrics={"accuracy": accuracy},
    paper="GPT-1 section 5, Figure 2 right",
)
