"""One Billion Word Benchmark: sentences of news, shuffled; GPT-2's only loss.

GPT-2, section 3.1: perplexity per word, with one end of sentence each. Every sentence is read on
its own. `test` is the first of the 50 held-out files, the one the literature scores; `heldout` is
all of them.
"""

from modules.evaluation.metrics import bits_per_byte, perplexity
from modules.evaluation.passages import sentences
from modules.evaluation.styles import ONE_BILLION_WORDS
from modules.paper_gpt2 import table_3
from modules.task import Row, Task

FIRST_FILE = 6_075  # lines of news.en.heldout-00000-of-00050


def first_file(rows: list[Row]) -> list[Row]:
    """Return the first held-out file's rows."""
    return rows[:FIRST_FILE]


TASK = Task(
    name="one_billion_words",
    format="perplexity",
    version=1,
    hub="billion-word-benchmark/lm1b plain_text",
    columns=("text",),
    splits={"test": "test", "heldout": "test"},
    pick={"test": first_file},
    items=sentences("text", ONE_BILLION_WORDS),
    metrics={"word_perplexity": perplexity, "bits_per_byte": bits_per_byte},
    variant="detokenized",
    variants={"raw": sentences("text", None)},
    paper="GPT-2 section 3.1, Table 3",
    reference=table_3("1BW perplexity"),
    notes={"unit": "token or end of line", "context": "sentence"},
)
