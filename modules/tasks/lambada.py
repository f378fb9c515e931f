"""LAMBADA: predict the last word of a passage, which needs more than its last sentence.

GPT-2, section 3.3, on OpenAI's own file (natural case and punctuation, 5,153 passages). Three ways
of counting side by side, because 117M's 45.99 % is only reached by the third: the whole word; the
whole word with a stop-word filter; the last BPE token. Beside the file as it is, the preparation
that an author advised (gpt2.md 5.2).
"""

from modules.evaluation.fillings import as_openai_did, last_words
from modules.evaluation.metrics import mean, perplexity
from modules.paper_gpt2 import published, table_3
from modules.task import Task

TASK = Task(
    name="lambada",
    format="cloze",
    version=1,
    hub="EleutherAI/lambada_openai default",
    columns=("text",),
    splits={"test": "test"},
    items=last_words("text"),
    metrics={
        "accuracy": mean,
        "accuracy_stop_word_filter": mean,
        "accuracy_last_token": mean,
        "perplexity": perplexity,
    },
    variant="as released",
    variants={"plain quotes": last_words("text", as_openai_did)},
    paper="GPT-2 section 3.3, Table 3",
    reference=table_3("LAMBADA accuracy", "LAMBADA perplexity")
    | published("LAMBADA accuracy, no filter, 1542M"),
)
