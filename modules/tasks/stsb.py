"""STS-B: how alike are two sentences, from 0 to 5? (GPT-1, Table 4.)

The label is a score. The release learns it as six classes, the score's weight spread over its two
neighbours, and predicts the expected class (gpt1.md 4.6).
"""

from modules.evaluation.metrics import pearson, spearman
from modules.glue import glue
from modules.task import compare

TASK = glue(
    "stsb",
    "similarity",
    columns=("sentence1", "sentence2", "label"),
    scale=(0.0, 5.0),
    items=compare("sentence1", "sentence2"),
    metrics={"pearson": pearson, "spearman": spearman},
    paper="GPT-1 section 3.3; Table 4",
    reference={"GPT-1": 82.0},
)
