"""MRPC: do two sentences of the news say the same? (GPT-1, Table 4.)"""

from modules.evaluation.metrics import accuracy, f1
from modules.glue import glue
from modules.task import compare

TASK = glue(
    "mrpc",
    "similarity",
    columns=("sentence1", "sentence2", "label"),
    labels=("not_equivalent", "equivalent"),
    items=compare("sentence1", "sentence2"),
    metrics={"f1": f1, "accuracy": accuracy},
    paper="GPT-1 section 3.3; Table 4",
    reference={"GPT-1": 82.3},
)
