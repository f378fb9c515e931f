"""RTE: does a text entail a sentence? (GPT-1, Table 2; 2,490 rows, the smallest of the table.)"""

from modules.evaluation.metrics import accuracy
from modules.glue import glue
from modules.task import entail

TASK = glue(
    "rte",
    "entailment",
    columns=("sentence1", "sentence2", "label"),
    labels=("entailment", "not_entailment"),
    items=entail("sentence1", "sentence2"),
    metrics={"accuracy": accuracy},
    paper="GPT-1 section 3.3; Table 2",
    reference={"GPT-1": 56.0},
)
