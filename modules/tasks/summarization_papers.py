"""Summaries of papers' abstracts in a sentence, asked for with `TL;DR:` (GPT-2, section 3.6).

As in summarization_manuals, which says what the paper leaves open. Several people's summaries of
one abstract are references side by side (SciTLDR's shape).
"""

from dataclasses import replace

from modules.tasks.summarization_manuals import TASK as MANUALS

SOURCE = "zeroshot/summarization_papers"

TASK = replace(
    MANUALS,
    name="summarization_papers",
    source=SOURCE,
    by_hand=f"put SciTLDR's rows (allenai/scitldr, abstracts) there as {SOURCE}.jsonl: one object "
    "a line with id, text and a list of summaries",
)
