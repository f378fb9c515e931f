"""Question in sentence: does the sentence (premise) answer the question (hypothesis)?

Entailment as GPT-1 does it (section 3.3): premise, delimiter, hypothesis. Made like QNLI. Which
side comes first in QNLI the paper does not say; here the sentence does.
"""

from modules.evaluation.metrics import accuracy
from modules.task import SPLITS, Task, entailment

TASK = Task(
    name="question_in_sentence",
    format="entailment",
    version=1,
    source="finetune/question_in_sentence",
    columns=("premise", "hypothesis", "label"),
    labels=("entailment", "not_entailment"),  # the order of nyu-mll/glue qnli
    splits=SPLITS,
    items=entailment,
    metrics={"accuracy": accuracy},
    like="nyu-mll/glue qnli",
    paper="GPT-1 section 3.3; Table 2",
    reference={"GPT-1 on QNLI v1": 88.1},
)
