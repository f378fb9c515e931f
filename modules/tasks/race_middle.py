"""RACE, middle school alone, for training and test (GPT-1, Table 3): see race."""

from modules.evaluation.metrics import accuracy
from modules.task import Task
from modules.tasks.race import COLUMNS, ITEMS, LABELS, SPLITS

TASK = Task(
    name="race_middle",
    format="multiple_choice",
    version=1,
    hub="ehovy/race middle",
    columns=COLUMNS,
    lists=("options",),
    label="answer",
    labels=LABELS,
    splits=SPLITS,
    items=ITEMS,
    metrics={"accuracy": accuracy},
    paper="GPT-1 section 3.3, Figure 1; Table 3",
    reference={"GPT-1": 62.9},
    note="trained on middle school alone; the paper may have trained on all of RACE",
)
