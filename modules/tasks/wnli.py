"""WNLI: does a sentence entail itself with its pronoun replaced? Only part of the GLUE score.

Its labels stand the other way round than RTE's and QNLI's. Validation shares sentences with
training under opposite labels, so that learning makes it worse than the majority.
"""

from modules.evaluation.metrics import accuracy
from modules.glue import glue
from modules.task import entail

TASK = glue(
    "wnli",
    "entailment",
    columns=("sentence1", "sentence2", "label"),
    labels=("not_entailment", "entailment"),
    items=entail("sentence1", "sentence2"),
    metrics={"accuracy": accuracy},
    paper="GPT-1 section 4.2, inside Table 4's GLUE score (gpt1.md 5.3)",
)
