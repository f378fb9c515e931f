"""Prompts of GPT-2's tasks (sections 3.5 to 3.8), by kind, for rows of any columns.

Examples of the task stand before a prompt where there are rows for them (`use` is "example"); the
paper gives no number of examples, no line ends and no order: each task states its own.
"""

from collections.abc import Callable, Sequence
from typing import Any

from modules.task import Items, Prompt, Row, row_id

Pair = Callable[[Row], tuple[str, str]]  # a row's two sides
Turns = Callable[[Row], list[tuple[str, tuple[str, ...]]]]  # (question, accepted answers)
References = Callable[[Row], Sequence[str]]


def split_rows(rows: list[Row]) -> tuple[list[Row], list[tuple[str, Row]]]:
    """Return the example rows, and the others with their names."""
    examples = [row for row in rows if row.get("use") == "example"]
    others = [(row_id(row, i), row) for i, row in enumerate(rows) if row.get("use") != "example"]
    return examples, others


def translations(sides: Pair, *, shortest: bool = False) -> Callable[[int], Items]:
    """Return, by number of examples, prompts `source = target` a line, then `source =`.

    With `shortest` the shortest examples are taken, so that short contexts hold them.
    """

    def length(row: Row) -> int:
        return sum(map(len, sides(row)))

    def shots(count: int) -> Items:
        def items(rows: list[Row]) -> list[Prompt]:
            examples, others = split_rows(rows)
            chosen = (sorted(examples, key=length) if shortest else examples)[:count]
            context = "".join("{} = {}\n".format(*sides(row)) for row in chosen)
            asked = [(name, *sides(row)) for name, row in others]
            return [
                Prompt(name, f"{context}{source} =", (target,)) for name, source, target in asked
            ]

        return items

    return shots


def questions(question: str, answers: str) -> Callable[[int], Items]:
    """Return, by number of examples, prompts of `Q:` and `A:` lines without a text."""

    def shots(count: int) -> Items:
        def items(rows: list[Row]) -> list[Prompt]:
            examples, others = split_rows(rows)
            context = "".join(f"Q: {r[question]}\nA: {r[answers][0]}\n" for r in examples[:count])
            return [
                Prompt(name, f"{context}Q: {row[question]}\nA:", tuple(row[answers]))
                for name, row in others
            ]

        return items

    return shots


def conversations(story: str, turns: Turns) -> Items:
    """Make one prompt per turn: story, the turns before it with their given answers, `A:`."""

    def items(rows: list[Row]) -> list[Prompt]:
        found = []
        for number, row in enumerate(rows):
            history = row[story].strip() + "\n"
            for turn, (asked, answers) in enumerate(turns(row)):
                prompt = f"{history}Q: {asked.strip()}\nA:"
                found.append(Prompt(f"{row_id(row, number)}/{turn}", prompt, answers))
                history = f"{prompt} {answers[0]}\n"
        return found

    return items


def summaries(text: str, references: References, hint: str) -> Items:
    """Make prompts of a text and a hint on a line of its own (`TL;DR:`), or of the text alone."""

    def items(rows: list[Row]) -> list[Prompt]:
        return [
            Prompt(row_id(row, i), f"{row[text].strip()}\n{hint}", tuple(references(row)))
            for i, row in enumerate(rows)
        ]

    return items


SUMMARY: dict[str, Any] = {"max_new_tokens": 100, "top_k": 2, "first_sentences": 3}
"""GPT-2, section 3.6."""
TRANSLATION: dict[str, Any] = {
    "max_new_tokens": 80,
    "temperature": 0.0,
    "first_sentences": 1,
    "stop_at_line_end": True,
}
"""GPT-2, section 3.7: greedy, the first sentence."""
ANSWER: dict[str, Any] = {"max_new_tokens": 32, "temperature": 0.0, "stop_at_line_end": True}
"""GPT-2, section 3.5: greedy."""
CLOSED_BOOK: dict[str, Any] = ANSWER | {"max_new_tokens": 16, "confidence": True}
"""GPT-2, section 3.8: greedy, with the answer's probability."""
