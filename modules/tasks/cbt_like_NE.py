"""Children's Book Test, named entities: which of ten words fills the gap in the 21st sentence.

See cbt_cn for the protocol.
"""

from modules.evaluation.fillings import gaps
from modules.evaluation.metrics import accuracy
from modules.paper_gpt2 import table_3
from modules.task import Task

TASK = Task(
    name="cbt_like_NE",
    format="choice",
    version=1,
    source="zeroshot/cbt_like_NE",
    columns=("context", "query", "candidates", "answer"),
    items=gaps("context", "query", "candidates"),
    metrics={"accuracy": accuracy},
    like="cam-cst/cbt NE",
    paper="GPT-2 section 3.2, Table 3",
    reference=table_3("CBT-NE accuracy"),
)
