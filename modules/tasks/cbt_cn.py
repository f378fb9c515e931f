"""Children's Book Test, common nouns: which of ten words fills the gap in the 21st sentence.

GPT-2, section 3.2: score a candidate by the probability of it and the rest of the sentence, given
everything before; no length normalisation. De-tokenised, and as it is. The paper reports the
validation split, because a book of the test split is in WebText.
"""

from modules.evaluation.fillings import gaps
from modules.evaluation.metrics import accuracy
from modules.evaluation.styles import PENN
from modules.paper_gpt2 import table_3
from modules.task import Task

COLUMNS = ("sentences", "question", "options")
SPLITS = {"val": "validation", "test": "test"}

TASK = Task(
    name="cbt_cn",
    format="choice",
    version=1,
    hub="cam-cst/cbt CN",
    columns=(*COLUMNS, "answer"),
    splits=SPLITS,
    scored=("val", "test"),
    items=gaps(*COLUMNS, style=PENN),
    metrics={"accuracy": accuracy},
    variant="detokenized",
    variants={"raw": gaps(*COLUMNS)},
    paper="GPT-2 section 3.2, Table 3",
    reference=table_3("CBT-CN accuracy"),
)
