"""LAMBADA: predict the last word of a passage, which needs more than its last sentence.

GPT-2, section 3.3. Three ways of counting, side by side, because the paper's number is only
reached by the third: the whole word; the whole word with a stop-word filter; the last BPE token.
Perplexity is that of the last word. The passage is natural text (case and punctuation kept), the
form of EleutherAI/lambada_openai: the target is what follows the last space.
"""

from modules.evaluation.fillings import last_words
from modules.evaluation.metrics import mean, perplexity
from modules.paper_gpt2 import published, table_3
from modules.task import Task

TASK = Task(
    name="lambada_like",
    format="cloze",
    version=1,
    source="zeroshot/lambada_like",
    columns=("text",),
    items=last_words("text"),
    metrics={
        "accuracy": mean,
        "accuracy_stop_word_filter": mean,
        "accuracy_last_token": mean,
        "perplexity": perplexity,
    },
    like="EleutherAI/lambada_openai",
    paper="GPT-2 section 3.3, Table 3",
    reference=table_3("LAMBADA accuracy", "LAMBADA perplexity")
    | published("LAMBADA accuracy, no filter, 1542M"),
)
