"""VitaminC: does a sentence of Wikipedia support a claim, refute it, or neither?

Entailment as GPT-1 does it (section 3.3): premise, delimiter, hypothesis. Not in the paper; SNLI
and MultiNLI have its three labels.
"""

from modules.evaluation.metrics import accuracy
from modules.task import SPLITS, Task, entailment

TASK = Task(
    name="vitaminc",
    format="entailment",
    version=1,
    source="finetune/vitaminc",
    columns=("premise", "hypothesis", "label"),
    labels=("contradiction", "entailment", "neutral"),
    splits=SPLITS,
    items=entailment,
    metrics={"accuracy": accuracy},
    like="stanfordnlp/snli",
    paper="GPT-1 section 3.3; Table 2",
    reference={"GPT-1 on SNLI": 89.9, "GPT-1 on MNLI matched": 82.1},
)
