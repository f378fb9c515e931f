"""QNLI as GLUE had it in 2018, which GPT-1 was measured on (Table 2).

It was withdrawn for the second release (see qnli), so it is read from the files of those who have
it, as GLUE gave them out: QNLI/train.tsv, dev.tsv, test.tsv with index, question, sentence, label.
"""

from modules.evaluation.metrics import accuracy
from modules.glue import NOTE
from modules.task import Task, entail

TASK = Task(
    name="qnli_v1",
    format="entailment",
    version=1,
    source="hub/qnli_v1/default",
    by_hand="unpack GLUE's QNLI.zip of 2018 (train.tsv, dev.tsv, test.tsv) into that folder; "
    "no public hub has it any more",
    key="index",
    columns=("question", "sentence", "label"),
    labels=("entailment", "not_entailment"),
    splits={"train": "train", "val": "dev", "test": "test"},
    scored=("val",),
    withheld=("test",),
    items=entail("sentence", "question"),
    metrics={"accuracy": accuracy},
    paper="GPT-1 section 3.3; Table 2",
    reference={"GPT-1": 88.1},
    note=NOTE,
)
