"""CoLA: is a sentence acceptable English? (GPT-1, Table 4.)"""

from modules.evaluation.metrics import accuracy, matthews
from modules.glue import glue
from modules.task import classify

TASK = glue(
    "cola",
    "classification",
    columns=("sentence", "label"),
    labels=("unacceptable", "acceptable"),
    items=classify("sentence"),
    metrics={"matthews": matthews, "accuracy": accuracy},
    paper="GPT-1 section 3.3, Figure 1; Table 4",
    reference={"GPT-1": 45.4},
)
