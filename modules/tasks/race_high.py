"""RACE, high school alone, for training and test (GPT-1, Table 3): see race."""

from modules.evaluation.metrics import accuracy
from modules.task import Task
from modules.tasks.race import COLUMNS, ITEMS, LABELS, SPLITS

TASK = Task(
    name="race_high",
    format="multiple_choice",
    version=1,
    hub="ehovy/race high",
    columns=COLUMNS,
    lists=("options",),
    label="answer",
    labels=LABELS,
    splits=SPLITS,
    items=ITEMS,
    metrics={"accuracy": accuracy},
    paper="GPT-1 section 3.3, Figure 1; Table 3",
    reference={"GPT-1": 57.4},
    note="trained on high school alone; the paper may have trained on all of RACE",
)
