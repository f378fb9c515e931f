"""Perplexity of the Python manual: pages that are not in the training text.

GPT-2, section 3.1: the likelihood of all text, per canonical unit; reported per word (split on
white space) and per byte, so that models with other tokenizers compare.
"""

from modules.evaluation.metrics import bits_per_byte, perplexity
from modules.task import Task, passages

TASK = Task(
    name="lm_ppl_python_docs",
    format="perplexity",
    version=1,
    source="zeroshot/lm_ppl/python_docs",
    columns=("text",),
    items=passages,
    metrics={
        "word_perplexity": perplexity,
        "byte_perplexity": perplexity,
        "bits_per_byte": bits_per_byte,
    },
    like="Salesforce/wikitext wikitext-103-raw-v1",
    paper="GPT-2 section 3.1, Table 3",
    reference={"117M on WikiText-103": 37.50, "1542M on WikiText-103": 17.48},
)
