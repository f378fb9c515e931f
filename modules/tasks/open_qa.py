"""Questions without a text to find the answer in.

GPT-2, section 3.8 (Natural Questions): example questions and answers, then the question; greedy;
exact match after SQuAD's normalisation. Confidence is the probability of the generated answer; the
accuracy of the most confident 1 % and 10 % says how well it is calibrated. The paper does not give
the number of examples.
"""

from modules.evaluation.metrics import exact_match
from modules.evaluation.prompts import CLOSED_BOOK, questions
from modules.paper_gpt2 import published
from modules.task import Task

SHOTS = 8
PROMPTS = questions("question", "answers")

TASK = Task(
    name="open_qa",
    format="generation",
    version=1,
    source="zeroshot/open_qa",
    columns=("use", "question", "answers"),
    items=PROMPTS(SHOTS),
    few_shot=PROMPTS,
    shots=SHOTS,
    like="google-research-datasets/nq_open",
    metrics={"exact_match": exact_match},
    paper="GPT-2 section 3.8",
    reference=published(
        "Natural Questions accuracy, 1542M", "Natural Questions accuracy, most confident 1 %, 1542M"
    ),
    generation=CLOSED_BOOK,
)
