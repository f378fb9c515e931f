"""Children's Book Test, common nouns: which of ten words fills the gap in the 21st sentence.

GPT-2, section 3.2: score a candidate by the probability of it and the rest of the sentence, given
everything before. No length normalisation. The paper reports the validation split.
"""

from modules.evaluation.fillings import gaps
from modules.evaluation.metrics import accuracy
from modules.paper_gpt2 import table_3
from modules.task import Task

TASK = Task(
    name="cbt_like_CN",
    format="choice",
    version=1,
    source="zeroshot/cbt_like_CN",
    columns=("context", "query", "candidates", "answer"),
    items=gaps("context", "query", "candidates"),
    metrics={"accuracy": accuracy},
    like="cam-cst/cbt CN",
    paper="GPT-2 section 3.2, Table 3",
    reference=table_3("CBT-CN accuracy"),
)
