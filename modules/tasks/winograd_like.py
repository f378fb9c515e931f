"""Winograd schemas: which of two names does a pronoun stand for.

GPT-2, section 3.4, after Trinh & Le 2018: put each candidate in the pronoun's place. Partial
scoring compares P(words after it | words up to it), full scoring the whole sentence; the paper
does not say which gives its 70.70 %, Figure 3 has partial on top. Candidates lose a capital
article in mid-sentence, and double spaces are closed up.
"""

from modules.evaluation.fillings import pronouns, whole
from modules.evaluation.metrics import accuracy
from modules.paper_gpt2 import published
from modules.task import Items, Row, Task


def gap(row: Row) -> tuple[str, str, bool]:
    """Return the text around the gap."""
    before, found, after = row["sentence"].partition("_")
    if not found:
        raise ValueError(f"row {row['id']}: column 'sentence' has no '_'")
    return before, after, False


PARTIAL: Items = pronouns(gap)

TASK = Task(
    name="winograd_like",
    format="choice",
    version=1,
    source="zeroshot/winograd_like",
    columns=("sentence", "options", "label"),
    items=PARTIAL,
    metrics={"accuracy": accuracy},
    variant="partial",
    variants={"full": whole(PARTIAL)},
    like="ErnestSDavis/winograd_wsc wsc273",
    paper="GPT-2 section 3.4, Figure 3",
    reference=published("Winograd accuracy, 1542M"),
)
