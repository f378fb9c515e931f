"""SciTail: does a sentence of the web support a science fact? (GPT-1, Table 2.)

From the set's snli_format, which has all 23,596 training rows (tsv_format lacks 499).
"""

from modules.evaluation.metrics import accuracy
from modules.task import Task, entail

TASK = Task(
    name="scitail",
    format="entailment",
    version=1,
    hub="allenai/scitail snli_format",
    columns=("sentence1", "sentence2", "gold_label"),
    label="gold_label",
    labels=("entailment", "neutral"),
    splits={"train": "train", "val": "validation", "test": "test"},
    items=entail("sentence1", "sentence2"),
    metrics={"accuracy": accuracy},
    paper="GPT-1 section 3.3; Table 2",
    reference={"GPT-1": 88.3},
)
