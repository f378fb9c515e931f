"""QNLI as GLUE has it since January 2019: does a sentence answer a question? (GPT-1, Table 2.)

Which side is read first the paper does not say; here the sentence is. The paper's set was the
first release: see qnli_v1.
"""

from modules.evaluation.metrics import accuracy
from modules.glue import NOTE, glue
from modules.task import entail

TASK = glue(
    "qnli",
    "entailment",
    columns=("question", "sentence", "label"),
    labels=("entailment", "not_entailment"),
    items=entail("sentence", "question"),
    metrics={"accuracy": accuracy},
    paper="GPT-1 section 3.3; Table 2",
    note=f"the second release of QNLI, made anew in 2019, the paper's is the first; {NOTE}",
)
