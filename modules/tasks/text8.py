"""text8: 100 MB of Wikipedia as the letters a to z and spaces; bits per character of the last 5 MB.

GPT-2, section 3.1. Read as one text. The hub has the three parts; the whole file, put there as
test.txt, does as well: of more than 5,000,000 characters the last ones count.
"""

from modules.evaluation.metrics import bits_per_byte
from modules.evaluation.passages import last_bytes, raw_text
from modules.paper_gpt2 import table_3
from modules.task import Task

TASK = Task(
    name="text8",
    format="perplexity",
    version=1,
    hub="afmck/text8 default",
    columns=("text",),
    splits={"train": "train", "val": "validation", "test": "test"},
    pick={"test": last_bytes(5_000_000)},
    items=raw_text(),
    metrics={"bits_per_character": bits_per_byte},  # its characters are bytes
    paper="GPT-2 section 3.1, Table 3",
    reference=table_3("text8 bits per character"),
    notes={"unit": "character", "context": "stream"},
)
