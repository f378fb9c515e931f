"""Winograd Schema Challenge, 273 questions: which of two does a pronoun stand for.

GPT-2, section 3.4, after Trinh & Le 2018: put each candidate in the pronoun's place. Partial
scoring compares P(words after it | words up to it), full scoring the whole sentence; the paper
does not say which gives its 70.70 %, Figure 3 has partial on top. A candidate loses a capital
article in mid-sentence and gets 's where the pronoun is possessive; double spaces are closed up.
"her" counts as possessive, as in lm-evaluation-harness.
"""

from modules.evaluation.fillings import POSSESSIVE, pronouns, whole
from modules.evaluation.metrics import accuracy
from modules.paper_gpt2 import published
from modules.task import Items, Row, Task


def pronoun(row: Row) -> tuple[str, str, bool]:
    """Return the text around the pronoun, and whether it is a possessive one."""
    text, word, start = row["text"], row["pronoun"], row["pronoun_loc"]
    end = start + len(word)
    if text[start:end] != word:
        raise ValueError(
            f"row {row['id']}: column 'pronoun' is {word!r}, but at column "
            f"'pronoun_loc' stands {text[start:end]!r}"
        )
    return text[:start], text[end:], word.lower() in POSSESSIVE


PARTIAL: Items = pronouns(pronoun)

TASK = Task(
    name="winograd",
    format="choice",
    version=1,
    hub="ErnestSDavis/winograd_wsc wsc273",
    columns=("text", "pronoun", "pronoun_loc", "options", "label"),
    splits={"test": "test"},
    items=PARTIAL,
    metrics={"accuracy": accuracy},
    variant="partial",
    variants={"full": whole(PARTIAL)},
    paper="GPT-2 section 3.4, Figure 3",
    reference=published("Winograd accuracy, 1542M"),
)
