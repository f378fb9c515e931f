"""Questions without a text to find the answer in.

GPT-2, section 3.8 (Natural Questions): example questions and answers, then the question; greedy;
exact match after SQuAD's normalisation. Confidence is the probability of the generated answer; the
accuracy of the most confident 1 % and 10 % says how well it is calibrated. The paper does not give
the number of examples.
"""

from modules.evaluation.metrics import exact_match
from modules.task import Prompt, Row, Task, row_id

SHOTS = 8


def questions(rows: list[Row]) -> list[Prompt]:
    """Turn rows {use, question, answers} into prompts after the first SHOTS examples."""
    examples = [row for row in rows if row["use"] == "example"][:SHOTS]
    context = "".join(f"Q: {row['question']}\nA: {row['answers'][0]}\n" for row in examples)
    return [
        Prompt(row_id(row, i), f"{context}Q: {row['question']}\nA:", tuple(row["answers"]))
        for i, row in enumerate(rows)
        if row["use"] != "example"
    ]


TASK = Task(
    name="open_qa",
    format="generation",
    version=1,
    source="zeroshot/open_qa",
    columns=("use", "question", "answers"),
    items=questions,
    metrics={"exact_match": exact_match},
    like="google-research-datasets/nq_open",
    paper="GPT-2 section 3.8",
    reference={"1542M": 4.1, "1542M, most confident 1 %": 63.1},
    generation={
        "max_new_tokens": 16,
        "temperature": 0.0,
        "stop_at_line_end": True,
        "confidence": True,
    },
    notes={"shots": SHOTS},
)
