"""LAMBADA: predict the last word of a passage, which needs more than its last sentence.

GPT-2, section 3.3. Three ways of counting, side by side, because the paper's number is only
reached by the third: the whole word; the whole word with a stop-word filter; the last BPE token.
Perplexity is that of the last word. The passage is natural text (case and punctuation kept), the
form of EleutherAI/lambada_openai: the target is what follows the last space.
"""

from modules.evaluation.metrics import mean, perplexity
from modules.task import Cloze, Row, Task, row_id


def clozes(rows: list[Row]) -> list[Cloze]:
    """Cut each text before its last word; the word keeps its space."""
    found = []
    for number, row in enumerate(rows):
        context, _, word = row["text"].rstrip().rpartition(" ")
        if not context:
            raise ValueError(f"lambada_like, row {number + 1}: column 'text' has a single word")
        found.append(Cloze(row_id(row, number), context, " " + word))
    return found


TASK = Task(
    name="lambada_like",
    format="cloze",
    version=1,
    source="zeroshot/lambada_like",
    columns=("text",),
    items=clozes,
    metrics={
        "accuracy": mean,
        "accuracy_stop_word_filter": mean,
        "accuracy_last_token": mean,
        "perplexity": perplexity,
    },
    like="EleutherAI/lambada_openai",
    paper="GPT-2 section 3.3, Table 3",
    reference={
        "117M, accuracy": 45.99,
        "1542M, accuracy": 63.24,
        "1542M, no filter": 52.66,
        "117M, perplexity": 35.13,
        "1542M, perplexity": 8.63,
    },
)
