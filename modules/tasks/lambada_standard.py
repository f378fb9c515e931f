"""LAMBADA as its makers released it: lower case, Penn Treebank tokens; see lambada.

GPT-2 used OpenAI's own file, not this one; de-tokenised and with capitals this comes near it.
"""

from modules.evaluation.fillings import last_words, natural_line
from modules.evaluation.metrics import mean, perplexity
from modules.evaluation.styles import LAMBADA
from modules.paper_gpt2 import published, table_3
from modules.task import Task


def detokenized(text: str) -> str:
    """Return a passage as natural text."""
    return natural_line(text, LAMBADA)


TASK = Task(
    name="lambada_standard",
    format="cloze",
    version=1,
    hub="cimec/lambada plain_text",
    columns=("text",),
    splits={"val": "validation", "test": "test"},
    items=last_words("text", detokenized),
    metrics={
        "accuracy": mean,
        "accuracy_stop_word_filter": mean,
        "accuracy_last_token": mean,
        "perplexity": perplexity,
    },
    variant="detokenized",
    variants={"raw": last_words("text")},
    paper="GPT-2 section 3.3, Table 3",
    reference=table_3("LAMBADA accuracy", "LAMBADA perplexity")
    | published("LAMBADA accuracy, no filter, 1542M"),
)
