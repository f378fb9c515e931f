"""Verse pairs: are two verses the same one in two translations?

Similarity as GPT-1 does it (section 3.3): both orders are read, the two states added. Shaped like
MRPC and QQP, which report F1.
"""

from modules.evaluation.metrics import accuracy, f1
from modules.task import SPLITS, Task, similarity

TASK = Task(
    name="verse_pairs",
    format="similarity",
    version=1,
    source="finetune/verse_pairs",
    columns=("text_a", "text_b", "label"),
    labels=("different", "same"),
    splits=SPLITS,
    items=similarity,
    metrics={"accuracy": accuracy, "f1": f1},
    like="nyu-mll/glue mrpc",
    paper="GPT-1 section 3.3; Table 4",
    reference={"GPT-1 on MRPC, F1": 82.3, "GPT-1 on QQP, F1": 70.3},
)
