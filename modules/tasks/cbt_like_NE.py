"""Children's Book Test, named entities: which of ten words fills the gap in the 21st sentence.

See cbt_like_CN for the protocol.
"""

from modules.evaluation.metrics import accuracy
from modules.task import Task
from modules.tasks.cbt_like_CN import gap_choices

TASK = Task(
    name="cbt_like_NE",
    format="choice",
    version=1,
    source="zeroshot/cbt_like_NE",
    columns=("context", "query", "candidates", "answer"),
    items=gap_choices,
    metrics={"accuracy": accuracy},
    like="cam-cst/cbt NE",
    paper="GPT-2 section 3.2, Table 3",
    reference={"117M": 83.4, "1542M": 89.05},
)
