"""Summaries of manual pages, asked for with `TL;DR:`.

GPT-2, section 3.6: text, `TL;DR:`, 100 tokens with top-k 2, of which the first three sentences
count; ROUGE F1, and the same without the hint. The paper leaves white space, truncation, splitter
and ROUGE's implementation open: here a line end before the hint, the text's end is kept, a regular
expression, and rouge-score with stemming.
"""

from modules.evaluation.metrics import rouge1, rouge2, rouge_average, rouge_l
from modules.evaluation.prompts import SUMMARY, summaries
from modules.paper_gpt2 import published
from modules.task import Row, Task


def given(row: Row) -> list[str]:
    """Return a row's summaries."""
    return list(row["summaries"])


TASK = Task(
    name="summarization_manuals",
    format="generation",
    version=1,
    source="zeroshot/summarization_manuals",
    columns=("text", "summaries"),
    items=summaries("text", given, "TL;DR:"),
    metrics={
        "rouge_average": rouge_average,
        "rouge1": rouge1,
        "rouge2": rouge2,
        "rougeL": rouge_l,
    },
    variant="TL;DR:",
    variants={"no hint": summaries("text", given, "")},
    like="abisee/cnn_dailymail 3.0.0",
    paper="GPT-2 section 3.6, Table 4",
    reference=published(
        "CNN/Daily Mail ROUGE average, 1542M", "CNN/Daily Mail ROUGE average, no hint, 1542M"
    ),
    generation=SUMMARY,
)
