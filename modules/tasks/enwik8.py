"""enwik8: the first 100 MB of a dump of Wikipedia, with its XML; bits per byte of the last 5 MB.

GPT-2, section 3.1. Read as one text. The hub has it as lines; the file itself, put there as
train.txt, does as well.
"""

from modules.evaluation.metrics import bits_per_byte
from modules.evaluation.passages import last_bytes, raw_text
from modules.paper_gpt2 import table_3
from modules.task import Task

TASK = Task(
    name="enwik8",
    format="perplexity",
    version=1,
    hub="LTCB/enwik8 enwik8",
    columns=("text",),
    splits={"test": "train"},
    pick={"test": last_bytes(5_000_000)},
    items=raw_text(),
    metrics={"bits_per_byte": bits_per_byte},
    paper="GPT-2 section 3.1, Table 3",
    reference=table_3("enwik8 bits per byte"),
    notes={"unit": "byte", "context": "stream"},
)
