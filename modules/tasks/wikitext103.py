"""WikiText-103: Wikipedia articles as tokens, rare words as <unk>.

GPT-2, section 3.1: perplexity per token of the file, with one <eos> per line, blank ones
too (245,569 on test); each article is read from its beginning. See wikitext2.
"""

from modules.evaluation.metrics import bits_per_byte, perplexity
from modules.evaluation.passages import articles
from modules.evaluation.styles import WIKITEXT
from modules.paper_gpt2 import table_3
from modules.task import Task

TASK = Task(
    name="wikitext103",
    format="perplexity",
    version=1,
    hub="Salesforce/wikitext wikitext-103-v1",
    columns=("text",),
    splits={"train": "train", "val": "validation", "test": "test"},
    items=articles("text", WIKITEXT),
    metrics={"word_perplexity": perplexity, "bits_per_byte": bits_per_byte},
    variant="detokenized",
    variants={"raw": articles("text", None)},
    paper="GPT-2 section 3.1, Table 3",
    reference=table_3("WikiText103 perplexity"),
    notes={"unit": "token or end of line", "context": "article"},
)
