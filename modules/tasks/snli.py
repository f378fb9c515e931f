"""SNLI: does a caption entail a sentence, contradict it, or neither? (GPT-1, Table 2.)

Rows whose annotators did not agree (label -1, 785 of 550,152 in training) are left out, as in the
set's own paper.
"""

from modules.evaluation.metrics import accuracy
from modules.task import Task, entailment

TASK = Task(
    name="snli",
    format="entailment",
    version=1,
    hub="stanfordnlp/snli plain_text",
    columns=("premise", "hypothesis", "label"),
    labels=("entailment", "neutral", "contradiction"),
    no_gold=-1,
    splits={"train": "train", "val": "validation", "test": "test"},
    items=entailment,
    metrics={"accuracy": accuracy},
    paper="GPT-1 section 3.3; Table 2",
    reference={"GPT-1": 89.9},
)
