"""CoQA: answer questions about a story in a conversation.

GPT-2, section 3.5: story, the conversation so far, `A:`; greedy. Every turn is scored and the
history holds the given answers (the paper's "history of the conversation"; the harness scores the
last turn only). F1 is that of the official script: best over the answers, leaving one out in turn.
Where story and history do not fit the model's context the story loses its beginning, counted.
"""

from modules.evaluation.metrics import coqa_exact_match, coqa_f1
from modules.task import Prompt, Row, Task, row_id


def turns(rows: list[Row]) -> list[Prompt]:
    """Make one prompt per turn, with the turns before it and their answers."""
    found = []
    for number, row in enumerate(rows):
        history = row["story"].strip() + "\n"
        for turn, asked in enumerate(row["turns"]):
            prompt = f"{history}Q: {asked['question'].strip()}\nA:"
            found.append(Prompt(f"{row_id(row, number)}/{turn}", prompt, tuple(asked["answers"])))
            history = f"{prompt} {asked['answers'][0]}\n"
    return found


TASK = Task(
    name="coqa_like",
    format="generation",
    version=1,
    source="zeroshot/coqa_like",
    columns=("story", "turns"),
    items=turns,
    metrics={"f1": coqa_f1, "exact_match": coqa_exact_match},
    like="stanfordnlp/coqa",
    paper="GPT-2 section 3.5",
    reference={"1542M, F1": 55.0},
    generation={"max_new_tokens": 32, "temperature": 0.0, "stop_at_line_end": True},
    notes={"history": "gold", "turns": "all"},
)
