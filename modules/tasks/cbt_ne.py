"""Children's Book Test, named entities: which of ten words fills the gap in the 21st sentence.

See cbt_cn for the protocol.
"""

from modules.evaluation.fillings import gaps
from modules.evaluation.metrics import accuracy
from modules.evaluation.styles import PENN
from modules.paper_gpt2 import table_3
from modules.task import Task
from modules.tasks.cbt_cn import COLUMNS, SPLITS

TASK = Task(
    name="cbt_ne",
    format="choice",
    version=1,
    hub="cam-cst/cbt NE",
    columns=(*COLUMNS, "answer"),
    splits=SPLITS,
    scored=("val", "test"),
    items=gaps(*COLUMNS, style=PENN),
    metrics={"accuracy": accuracy},
    variant="detokenized",
    variants={"raw": gaps(*COLUMNS)},
    paper="GPT-2 section 3.2, Table 3",
    reference=table_3("CBT-NE accuracy"),
)
