"""Perplexity of text in WikiText's style, rare words as <unk>, de-tokenised and as it is.

GPT-2, section 3.1: invertible de-tokenizers remove the data set's artefacts; the units stay those
of the file: its tokens and one end of line per row, which the model reads as a line end.
The paper scored the files with <unk>: that alone explains 29.41 against 37.50 in Table 3.
"""

from modules.evaluation.metrics import bits_per_byte, perplexity
from modules.evaluation.passages import sentences
from modules.evaluation.styles import WIKITEXT_STYLE
from modules.task import Task

TASK = Task(
    name="tokenized_wikitext",
    format="perplexity",
    version=2,
    source="zeroshot/lm_ppl/tokenized_styles",
    columns=("wikitext_style_unk",),
    items=sentences("wikitext_style_unk", WIKITEXT_STYLE),
    metrics={"word_perplexity": perplexity, "bits_per_byte": bits_per_byte},
    variant="detokenized",
    variants={"raw": sentences("wikitext_style_unk", None)},
    like="Salesforce/wikitext wikitext-2-v1",
    paper="GPT-2 section 3.1, Table 3",
    reference={"117M on WikiText-2": 29.41, "1542M on WikiText-2": 18.34},
)
