"""Perplexity of a packaging manual: a domain of its own, with commands in it.

GPT-2, section 3.1: the likelihood of all text, per canonical unit; reported per word (split on
white space) and per byte, so that models with other tokenizers compare.
"""

from modules.evaluation.metrics import bits_per_byte, perplexity
from modules.task import Task, passages

TASK = Task(
    name="lm_ppl_technical_manual",
    format="perplexity",
    version=1,
    source="zeroshot/lm_ppl/technical_manual",
    columns=("text",),
    items=passages,
    metrics={
        "word_perplexity": perplexity,
        "byte_perplexity": perplexity,
        "bits_per_byte": bits_per_byte,
    },
    like="LTCB/enwik8",
    paper="GPT-2 section 3.1, Table 3",
    reference={
        "117M on enwik8, bits per byte": 1.16,
        "1542M on enwik8, bits per byte": 0.93,
    },
)
