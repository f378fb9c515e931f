"""Children's Book Test, verbs: which of ten words fills the gap in the 21st sentence.

See cbt_cn for the protocol. The paper reports common nouns and named entities only.
"""

from modules.evaluation.fillings import gaps
from modules.evaluation.metrics import accuracy
from modules.task import Task

TASK = Task(
    name="cbt_like_V",
    format="choice",
    version=1,
    source="zeroshot/cbt_like_V",
    columns=("context", "query", "candidates", "answer"),
    items=gaps("context", "query", "candidates"),
    metrics={"accuracy": accuracy},
    like="cam-cst/cbt V",
    paper="GPT-2 section 3.2",
)
