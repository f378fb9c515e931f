"""Passage source: which of eight books and manuals a short passage is from.

Classification as GPT-1 does it (section 3.3, Figure 1). The public set of this shape that GPT-1
was measured on is SST-2; its numbers do not compare with this set's.
"""

from modules.evaluation.metrics import accuracy
from modules.task import SPLITS, Task, classification

TASK = Task(
    name="passage_source",
    format="classification",
    version=1,
    source="finetune/passage_source",
    columns=("text", "label"),
    labels=(
        "address_1861_1932",
        "address_1933_1981",
        "address_before_1861",
        "apache_docs",
        "bible_new_testament",
        "bible_old_testament",
        "python_docs",
        "sqlite_docs",
    ),
    splits=SPLITS,
    items=classification,
    metrics={"accuracy": accuracy},
    like="nyu-mll/glue sst2",
    paper="GPT-1 section 3.3, Figure 1; Table 4",
    reference={"GPT-1 on SST-2": 91.3},
)
