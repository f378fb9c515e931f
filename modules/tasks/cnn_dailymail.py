"""Summaries of news, asked for with `TL;DR:` (CNN and Daily Mail, 11,490 test articles).

GPT-2, section 3.6: article, `TL;DR:`, 100 tokens with top-k 2, of which the first three sentences
count; ROUGE F1, and the same without the hint. The paper leaves white space, truncation, splitter
and ROUGE's implementation open: here a line end before the hint, the article's end is kept, a
regular expression, and rouge-score with stemming over the highlights as one text (rougeL is of
the whole, not sentence by sentence).
"""

from modules.evaluation.metrics import rouge1, rouge2, rouge_average, rouge_l
from modules.evaluation.prompts import SUMMARY, summaries
from modules.paper_gpt2 import published
from modules.task import Row, Task


def highlights(row: Row) -> list[str]:
    """Return the one reference: the highlights, a line each."""
    return [row["highlights"]]


TASK = Task(
    name="cnn_dailymail",
    format="generation",
    version=1,
    hub="abisee/cnn_dailymail 3.0.0",
    columns=("article", "highlights"),
    splits={"val": "validation", "test": "test"},
    items=summaries("article", highlights, "TL;DR:"),
    metrics={
        "rouge_average": rouge_average,
        "rouge1": rouge1,
        "rouge2": rouge2,
        "rougeL": rouge_l,
    },
    variant="TL;DR:",
    variants={"no hint": summaries("article", highlights, "")},
    paper="GPT-2 section 3.6, Table 4",
    reference=published(
        "CNN/Daily Mail ROUGE average, 1542M", "CNN/Daily Mail ROUGE average, no hint, 1542M"
    ),
    generation=SUMMARY,
)
