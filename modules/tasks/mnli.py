"""MultiNLI: does a sentence entail another, contradict it, or neither? (GPT-1, Table 2.)

Scored on matched rows, from the training set's genres, and on mismatched ones, from others.
"""

from modules.evaluation.metrics import accuracy
from modules.glue import glue
from modules.task import entailment

TASK = glue(
    "mnli",
    "entailment",
    columns=("premise", "hypothesis", "label"),
    labels=("entailment", "neutral", "contradiction"),
    splits={
        "train": "train",
        "val": "validation_matched",
        "val_mismatched": "validation_mismatched",
        "test": "test_matched",
        "test_mismatched": "test_mismatched",
    },
    scored=("val", "val_mismatched"),
    withheld=("test", "test_mismatched"),
    items=entailment,
    metrics={"accuracy": accuracy},
    paper="GPT-1 section 3.3; Table 2",
    reference={"GPT-1": 82.1, "GPT-1, mismatched": 81.4},
)
