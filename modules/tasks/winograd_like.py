"""Winograd schemas: which of two names does a pronoun stand for.

GPT-2, section 3.4, after Trinh & Le 2018: put each candidate in the pronoun's place. Partial
scoring compares P(words after it | words up to it), full scoring the whole sentence; the paper
does not say which gives its 70.70 %, Figure 3 has partial on top. Candidates lose a capital
article in mid-sentence, and double spaces are closed up.
"""

import re

from modules.evaluation.metrics import accuracy
from modules.task import Choice, Row, Task, row_id


def fillings(row: Row, number: int) -> list[tuple[str, str]]:
    """Return (text up to and with the candidate, text after it) per candidate."""
    before, gap, after = row["sentence"].partition("_")
    if not gap:
        raise ValueError(f"winograd_like, row {number + 1}: column 'sentence' has no '_'")
    if row["label"] not in range(len(row["options"])):
        raise ValueError(
            f"winograd_like, row {number + 1}: column 'label' is {row['label']!r}; "
            f"allowed: 0 to {len(row['options']) - 1}"
        )
    middle = bool(before.strip()) and before.strip()[-1] not in ".!?"
    return [
        (squeeze(before + (lower_article(option) if middle else option)), squeeze(after))
        for option in row["options"]
    ]


def lower_article(option: str) -> str:
    """Lower-case a candidate's leading article."""
    return re.sub(r"^(The|A|An) ", lambda m: m[0].lower(), option)


def squeeze(text: str) -> str:
    """Close up double spaces."""
    return re.sub(" {2,}", " ", text)


def partial(rows: list[Row]) -> list[Choice]:
    """Score the words after the candidate, given those up to and with it."""
    return [
        Choice(row_id(row, i), tuple(fillings(row, i)), row["label"]) for i, row in enumerate(rows)
    ]


def full(rows: list[Row]) -> list[Choice]:
    """Score the whole sentence with the candidate in it."""
    return [
        Choice(choice.id, tuple(("", a + b) for a, b in choice.candidates), choice.label)
        for choice in partial(rows)
    ]


TASK = Task(
    name="winograd_like",
    format="choice",
    version=1,
    source="zeroshot/winograd_like",
    columns=("sentence", "options", "label"),
    items=partial,
    metrics={"accuracy": accuracy},
    variant="partial",
    variants={"full": full},
    like="lighteval/winograd_wsc wsc273",
    paper="GPT-2 section 3.4, Figure 3",
    reference={"1542M": 70.70},
)
