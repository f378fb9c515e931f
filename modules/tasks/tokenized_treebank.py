"""Perplexity of text in the Penn Treebank's style, with punctuation, de-tokenised and as it is.

GPT-2, section 3.1: invertible de-tokenizers remove the data set's artefacts; the units stay those
of the file: its tokens and one end of line per row, which the model reads as a line end.
The shape of the One Billion Word Benchmark, GPT-2's only loss.
"""

from modules.evaluation.metrics import bits_per_byte, perplexity
from modules.evaluation.passages import sentences
from modules.evaluation.styles import TREEBANK
from modules.task import Task

TASK = Task(
    name="tokenized_treebank",
    format="perplexity",
    version=2,
    source="zeroshot/lm_ppl/tokenized_styles",
    columns=("treebank_style",),
    items=sentences("treebank_style", TREEBANK),
    metrics={"word_perplexity": perplexity, "bits_per_byte": bits_per_byte},
    variant="detokenized",
    variants={"raw": sentences("treebank_style", None)},
    like="billion-word-benchmark/lm1b",
    paper="GPT-2 section 3.1, Table 3",
    reference={"117M on 1BW": 75.20, "1542M on 1BW": 42.16},
)
