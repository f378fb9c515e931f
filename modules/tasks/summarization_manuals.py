"""Summaries of manual pages, asked for with `TL;DR:`.

GPT-2, section 3.6: text, `TL;DR:`, 100 tokens with top-k 2, of which the first three sentences
count; ROUGE F1, and the same without the hint. The paper leaves white space, truncation, splitter
and ROUGE's implementation open: here a line end before the hint, the text's end is kept, a regular
expression, and rouge-score with stemming.
"""

from modules.evaluation.metrics import rouge1, rouge2, rouge_average, rouge_l
from modules.task import Prompt, Row, Task, row_id


def prompts(rows: list[Row], ending: str) -> list[Prompt]:
    """Turn rows {text, summaries} into prompts."""
    return [
        Prompt(row_id(row, i), row["text"].strip() + ending, tuple(row["summaries"]))
        for i, row in enumerate(rows)
    ]


def with_hint(rows: list[Row]) -> list[Prompt]:
    """Ask for a summary."""
    return prompts(rows, "\nTL;DR:")


def without_hint(rows: list[Row]) -> list[Prompt]:
    """Let the model go on after the text."""
    return prompts(rows, "\n")


TASK = Task(
    name="summarization_manuals",
    format="generation",
    version=1,
    source="zeroshot/summarization_manuals",
    columns=("text", "summaries"),
    items=with_hint,
    metrics={
        "rouge_average": rouge_average,
        "rouge1": rouge1,
        "rouge2": rouge2,
        "rougeL": rouge_l,
    },
    variant="TL;DR:",
    variants={"no hint": without_hint},
    like="abisee/cnn_dailymail 3.0.0",
    paper="GPT-2 section 3.6, Table 4",
    reference={"1542M, average": 21.40, "1542M, no hint": 15.03},
    generation={"max_new_tokens": 100, "top_k": 2, "first_sentences": 3},
)
