"""Penn Treebank as Mikolov prepared it: the Wall Street Journal of 1989, lower case, 10,000 words.

GPT-2, section 3.1: perplexity per token with one end of sentence per line (82,430 on test). The
lines follow each other and are read so. What cannot come back is lost to the model too:
punctuation inside sentences, numbers (N) and rare words (<unk>).
"""

from modules.evaluation.metrics import bits_per_byte, perplexity
from modules.evaluation.passages import stream
from modules.evaluation.styles import PTB
from modules.paper_gpt2 import table_3
from modules.task import Task

TASK = Task(
    name="ptb",
    format="perplexity",
    version=1,
    hub="ptb-text-only/ptb_text_only penn_treebank",
    columns=("sentence",),
    splits={"train": "train", "val": "validation", "test": "test"},
    also={"text": "sentence"},
    items=stream("sentence", PTB),
    metrics={"word_perplexity": perplexity, "bits_per_byte": bits_per_byte},
    variant="detokenized",
    variants={"raw": stream("sentence", None)},
    paper="GPT-2 section 3.1, Table 3",
    reference=table_3("PTB perplexity"),
    notes={"unit": "token or end of line", "context": "stream"},
)
