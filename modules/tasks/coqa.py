"""CoQA: answer questions about a story in a conversation.

GPT-2, section 3.5: story, the conversation so far, `A:`; greedy. Every turn is scored and the
history holds the given answers (the paper's "history of the conversation"; the harness scores the
last turn only). F1 is that of the official script: best over the answers, leaving one out in turn.
The development set; its story has one answer a turn and three by other people.
Where story and history do not fit the model's context the story loses its beginning, counted.
"""

from modules.evaluation.metrics import coqa_exact_match, coqa_f1
from modules.evaluation.prompts import ANSWER, conversations
from modules.paper_gpt2 import published
from modules.task import Row, Task


def turns(row: Row) -> list[tuple[str, tuple[str, ...]]]:
    """Return a row's questions, each with the reference answer and other people's."""
    people = [row["additional_answers"][who] for who in sorted(row["additional_answers"])]
    answers = [person["input_text"] for person in (row["answers"], *people)]
    return list(zip(row["questions"]["input_text"], zip(*answers, strict=True), strict=True))


TASK = Task(
    name="coqa",
    format="generation",
    version=1,
    hub="EleutherAI/coqa default",
    columns=("story", "questions", "answers", "additional_answers"),
    splits={"train": "train", "val": "validation"},
    scored=("val",),
    items=conversations("story", turns),
    metrics={"f1": coqa_f1, "exact_match": coqa_exact_match},
    paper="GPT-2 section 3.5",
    reference=published("CoQA F1, 1542M"),
    generation=ANSWER,
    notes={"history": "gold", "turns": "all"},
)
