"""Passage author: which of six writers wrote 40 to 90 words of a story.

Classification as GPT-1 does it (section 3.3, Figure 1). Not in the paper; SST-2 has its shape.
"""

from modules.evaluation.metrics import accuracy
from modules.task import SPLITS, Task, classification

TASK = Task(
    name="passage_author",
    format="classification",
    version=1,
    source="finetune/passage_author",
    columns=("text", "label"),
    labels=("dickens", "doyle", "jerome", "shelley", "spyri", "stevenson"),
    splits=SPLITS,
    items=classification,
    metrics={"accuracy": accuracy},
    like="nyu-mll/glue sst2",
    paper="GPT-1 section 3.3, Figure 1; Table 4",
    reference={"GPT-1 on SST-2": 91.3},
)
