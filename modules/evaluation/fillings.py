"""Texts with one word to find (GPT-2, sections 3.2 to 3.4), by kind, for rows of any columns."""

import re
from collections.abc import Callable
from typing import Any

from modules.evaluation.detokenize import Style, detokenize
from modules.evaluation.metrics import accuracy
from modules.evaluation.styles import PENN
from modules.task import Choice, Cloze, Items, Row, Task, row_id

GAP = "XXXXX"  # in CBT's rows
SAME = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'"})
POSSESSIVE = ("my", "his", "her", "our", "their", "its")


def natural_line(line: str, style: Style | None) -> str:
    """Return a tokenised line as natural text."""
    return detokenize(line.strip(), style).text.strip() if style else line


def last_words(column: str, prepare: Callable[[str], str] = str.rstrip) -> Items:
    """Cut each text before its last word; the word keeps its space (LAMBADA)."""

    def items(rows: list[Row]) -> list[Cloze]:
        found = []
        for number, row in enumerate(rows):
            context, _, word = prepare(row[column]).rpartition(" ")
            if not context:
                raise ValueError(f"row {number + 1}: column {column!r} has a single word")
            found.append(Cloze(row_id(row, number), context, " " + word))
        return found

    return items


def as_openai_did(text: str) -> str:
    """Prepare a passage as an author advised (gpt2.md 5.2): plain quotes, a line end first."""
    plain = text.translate(SAME).replace("``", '"').replace("''", '"')
    return "\n" + plain.strip()


def gaps(
    context: str, query: str, candidates: str, answer: str = "answer", style: Style | None = None
) -> Items:
    """Score candidate and rest of the query after the sentences before (CBT; section 3.2)."""

    def items(rows: list[Row]) -> list[Choice]:
        found = []
        for number, row in enumerate(rows):
            before, gap, after = natural_line(row[query], style).partition(GAP)
            if not gap or row[answer] not in row[candidates]:
                raise ValueError(
                    f"row {number + 1}: column {query!r} needs {GAP!r} and column {answer!r} "
                    f"must be one of {candidates!r}"
                )
            story = " ".join([*(natural_line(line, style) for line in row[context]), before])
            pairs = tuple((story, word + after) for word in row[candidates])
            found.append(Choice(row_id(row, number), pairs, row[candidates].index(row[answer])))
        return found

    return items


def cbt(name: str, words: str, **fields: Any) -> Task:
    """Return the Children's Book Test of a class of words, in the hub's layout (section 3.2).

    De-tokenised, and as it is. Validation comes first, because a book of test is in WebText.
    """
    columns = ("sentences", "question", "options")
    return Task(
        name=name,
        format="choice",
        version=1,
        hub=f"cam-cst/cbt {words}",
        columns=(*columns, "answer"),
        splits={"val": "validation", "test": "test"},
        scored=("val", "test"),
        items=gaps(*columns, style=PENN),
        metrics={"accuracy": accuracy},
        variant="detokenized",
        variants={"raw": gaps(*columns)},
        **fields,
    )


Place = Callable[[Row], tuple[str, str, bool]]
"""Returns the text before and after the pronoun, and whether it is a possessive one."""


def pronouns(place: Place, options: str = "options", label: str = "label") -> Items:
    """Score the words after the pronoun's place, given those up to and with each candidate."""

    def items(rows: list[Row]) -> list[Choice]:
        found = []
        for number, row in enumerate(rows):
            if row[label] not in range(len(row[options])):
                raise ValueError(
                    f"row {number + 1}: column {label!r} is {row[label]!r}; "
                    f"allowed: 0 to {len(row[options]) - 1}"
                )
            pairs = tuple(filled(*place(row), option) for option in row[options])
            found.append(Choice(row_id(row, number), pairs, row[label]))
        return found

    return items


def filled(before: str, after: str, possessive: bool, option: str) -> tuple[str, str]:
    """Put a candidate in the pronoun's place (gpt2.md 5.5): case, possessive, single spaces."""
    if before.strip() and before.strip()[-1] not in ".!?":
        option = re.sub(r"^(The|A|An) ", lambda m: m[0].lower(), option)
    if possessive and not option.endswith(("'s", "s'")):
        option += "'s"
    return squeeze(before + option), squeeze(after)


def squeeze(text: str) -> str:
    """Close up double spaces."""
    return re.sub(" {2,}", " ", text)


def whole(items: Items) -> Items:
    """Score the whole sentence with the candidate in it: full scoring."""

    def full(rows: list[Row]) -> list[Choice]:
        return [
            Choice(choice.id, tuple(("", a + b) for a, b in choice.candidates), choice.label)
            for choice in items(rows)
        ]

    return full
