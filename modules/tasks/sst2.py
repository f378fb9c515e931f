"""SST-2: is a phrase of a film review positive? (GPT-1, Table 4.)"""

from modules.evaluation.metrics import accuracy
from modules.glue import glue
from modules.task import classify

TASK = glue(
    "sst2",
    "classification",
    columns=("sentence", "label"),
    labels=("negative", "positive"),
    items=classify("sentence"),
    metrics={"accuracy": accuracy},
    paper="GPT-1 section 3.3, Figure 1; Table 4",
    reference={"GPT-1": 91.3},
)
