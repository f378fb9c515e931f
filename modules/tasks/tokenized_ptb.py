"""Perplexity of text in Mikolov's PTB style, de-tokenised and as it is.

GPT-2, section 3.1: invertible de-tokenizers remove the data set's artefacts; the units stay those
of the file: its tokens and one end of line per row, which the model reads as a line end.
The style is lower case without punctuation, N for numbers and <unk> for rare words: contractions,
capitals at known places and the full stop can be undone, the rest stays as it is.
"""

from modules.evaluation.metrics import bits_per_byte, perplexity
from modules.evaluation.passages import sentences
from modules.evaluation.styles import PTB_STYLE
from modules.task import Task

TASK = Task(
    name="tokenized_ptb",
    format="perplexity",
    version=2,
    source="zeroshot/lm_ppl/tokenized_styles",
    columns=("ptb_style",),
    items=sentences("ptb_style", PTB_STYLE),
    metrics={"word_perplexity": perplexity, "bits_per_byte": bits_per_byte},
    variant="detokenized",
    variants={"raw": sentences("ptb_style", None)},
    like="ptb-text-only/ptb_text_only",
    paper="GPT-2 section 3.1, Table 3",
    reference={"117M on PTB": 65.85, "1542M on PTB": 35.76},
)
