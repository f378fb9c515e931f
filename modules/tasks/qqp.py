"""QQP: do two questions of Quora ask the same? (GPT-1, Table 4.)"""

from modules.evaluation.metrics import accuracy, f1
from modules.glue import glue
from modules.task import compare

TASK = glue(
    "qqp",
    "similarity",
    columns=("question1", "question2", "label"),
    may_be_empty=("question2@310137", "question2@362246"),  # GLUE's training file has them so
    labels=("not_duplicate", "duplicate"),
    items=compare("question1", "question2"),
    metrics={"f1": f1, "accuracy": accuracy},
    paper="GPT-1 section 3.3; Table 4",
    reference={"GPT-1": 70.3},
)
