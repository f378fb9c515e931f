"""CoQA: answer questions about a story in a conversation.

GPT-2, section 3.5: story, the conversation so far, `A:`; greedy. Every turn is scored and the
history holds the given answers (the paper's "history of the conversation"; the harness scores the
last turn only). F1 is that of the official script: best over the answers, leaving one out in turn.
Where story and history do not fit the model's context the story loses its beginning, counted.
"""

from modules.evaluation.metrics import coqa_exact_match, coqa_f1
from modules.evaluation.prompts import ANSWER, conversations
from modules.paper_gpt2 import published
from modules.task import Row, Task


def turns(row: Row) -> list[tuple[str, tuple[str, ...]]]:
    """Return a row's questions and their answers."""
    return [(turn["question"], tuple(turn["answers"])) for turn in row["turns"]]


TASK = Task(
    name="coqa_like",
    format="generation",
    version=1,
    source="zeroshot/coqa_like",
    columns=("story", "turns"),
    like="EleutherAI/coqa",
    items=conversations("story", turns),
    metrics={"f1": coqa_f1, "exact_match": coqa_exact_match},
    paper="GPT-2 section 3.5",
    reference=published("CoQA F1, 1542M"),
    generation=ANSWER,
    notes={"history": "gold", "turns": "all"},
)
