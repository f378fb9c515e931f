"""GPT-2's results as published (Radford et al. 2019, Tables 3, 4 and 6, sections 3.3 to 4)."""

from dataclasses import dataclass

SIZES = ("117M", "345M", "762M", "1542M")
"""The paper's names of the four models."""
RELEASED = ("124M", "355M", "774M", "1.5B")
"""Their names since the authors counted again: what the released weights are called."""
PARAMETERS = (124_439_808, 354_823_168, 774_030_080, 1_557_611_200)  # gpt2.md, section 1

TABLE_3: dict[str, tuple[float, float, float, float]] = {
    "LAMBADA perplexity": (35.13, 15.60, 10.87, 8.63),
    "LAMBADA accuracy": (45.99, 55.48, 60.12, 63.24),
    "CBT-CN accuracy": (87.65, 92.35, 93.45, 93.30),
    "CBT-NE accuracy": (83.4, 87.1, 88.0, 89.05),
    "WikiText2 perplexity": (29.41, 22.76, 19.93, 18.34),
    "PTB perplexity": (65.85, 47.33, 40.31, 35.76),
    "enwik8 bits per byte": (1.16, 1.01, 0.97, 0.93),
    "text8 bits per character": (1.17, 1.06, 1.02, 0.98),
    "WikiText103 perplexity": (37.50, 26.37, 22.05, 17.48),
    "1BW perplexity": (75.20, 55.72, 44.575, 42.16),
}

PREVIOUS: dict[str, float] = dict(  # best results before the paper; Table 3, first row
    zip(TABLE_3, (99.8, 59.23, 85.7, 82.3, 39.14, 46.54, 0.99, 1.08, 18.3, 21.8), strict=True)
)

TABLE_4: dict[str, tuple[float, float, float, float]] = {  # ROUGE-1, -2, -L, their mean
    "Bottom-Up Sum": (41.22, 18.68, 38.34, 32.75),
    "Lede-3": (40.38, 17.66, 36.62, 31.55),
    "Seq2Seq + Attn": (31.33, 11.81, 28.83, 23.99),
    "GPT-2 TL;DR:": (29.34, 8.27, 26.58, 21.40),
    "Random-3": (28.78, 8.63, 25.52, 20.98),
    "GPT-2 no hint": (21.58, 4.03, 19.47, 15.03),
}

TABLE_6: dict[str, tuple[float, float]] = {  # % of test 8-grams in its own train split, in WebText
    "PTB": (2.67, 0.88),
    "WikiText-2": (0.66, 1.63),
    "enwik8": (7.50, 6.31),
    "text8": (2.34, 3.94),
    "WikiText-103": (9.09, 2.42),
    "1BW": (13.19, 3.75),
}

OTHERS: dict[str, float] = {
    "LAMBADA accuracy, no filter, 1542M": 52.66,  # section 3.3
    "Winograd accuracy, 1542M": 70.70,  # section 3.4
    "CoQA F1, 1542M": 55.0,  # section 3.5
    "CNN/Daily Mail ROUGE-1, 1542M": 29.34,  # Table 4, as the next five
    "CNN/Daily Mail ROUGE-2, 1542M": 8.27,
    "CNN/Daily Mail ROUGE-L, 1542M": 26.58,
    "CNN/Daily Mail ROUGE average, 1542M": 21.40,
    "CNN/Daily Mail ROUGE average, no hint, 1542M": 15.03,
    "WMT-14 English to French BLEU, 1542M": 5.0,  # section 3.7, as the next
    "WMT-14 French to English BLEU, 1542M": 11.5,
    "Natural Questions accuracy, 1542M": 4.1,  # section 3.8, as the next
    "Natural Questions accuracy, most confident 1 %, 1542M": 63.1,
}


@dataclass(frozen=True)
class Measured:
    """A result of the paper, and which score of ours measures the same thing."""

    name: str  # in TABLE_3, or in OTHERS with the model's size behind it
    task: str  # on the paper's own set
    like: tuple[str, ...]  # on sets like it, the best likeness first
    metric: str
    variant: str = ""  # of a task with several; empty: its headline one

    @property
    def published(self) -> tuple[float | None, ...]:
        """The paper's numbers by size; None where it has none."""
        if self.name in TABLE_3:
            return TABLE_3[self.name]
        return tuple(OTHERS.get(f"{self.name}, {size}") for size in SIZES)

    @property
    def scale(self) -> int:
        """What to multiply our number by: the paper prints shares in percent."""
        return 1 if self.metric in AS_THEY_ARE else 100


ROUGE = ("cnn_dailymail", ("summarization_manuals", "summarization_papers"))
AS_THEY_ARE = ("perplexity", "word_perplexity", "bits_per_byte", "bits_per_character", "bleu")

MEASURED = (
    # Table 3's accuracies are with the stop-word filter (gpt2.md, section 5.3)
    Measured("LAMBADA perplexity", "lambada", ("lambada_like",), "perplexity"),
    Measured("LAMBADA accuracy", "lambada", ("lambada_like",), "accuracy_stop_word_filter"),
    Measured("CBT-CN accuracy", "cbt_cn", ("cbt_like_CN",), "accuracy"),
    Measured("CBT-NE accuracy", "cbt_ne", ("cbt_like_NE",), "accuracy"),
    Measured("WikiText2 perplexity", "wikitext2", ("tokenized_wikitext",), "word_perplexity"),
    Measured("PTB perplexity", "ptb", ("tokenized_ptb",), "word_perplexity"),
    Measured("enwik8 bits per byte", "enwik8", ("lm_ppl_technical_manual",), "bits_per_byte"),
    Measured("text8 bits per character", "text8", (), "bits_per_character"),
    Measured(
        "WikiText103 perplexity",
        "wikitext103",
        ("lm_ppl_encyclopedia", "lm_ppl_speeches"),
        "word_perplexity",
    ),
    Measured("1BW perplexity", "one_billion_words", ("tokenized_treebank",), "word_perplexity"),
    Measured("LAMBADA accuracy, no filter", "lambada", ("lambada_like",), "accuracy"),
    Measured("Winograd accuracy", "winograd", ("winograd_like",), "accuracy", "partial"),
    Measured("CoQA F1", "coqa", ("coqa_like",), "f1"),
    Measured("CNN/Daily Mail ROUGE-1", *ROUGE, "rouge1", "TL;DR:"),
    Measured("CNN/Daily Mail ROUGE-2", *ROUGE, "rouge2", "TL;DR:"),
    Measured("CNN/Daily Mail ROUGE-L", *ROUGE, "rougeL", "TL;DR:"),
    Measured("CNN/Daily Mail ROUGE average", *ROUGE, "rouge_average", "TL;DR:"),
    Measured("CNN/Daily Mail ROUGE average, no hint", *ROUGE, "rouge_average", "no hint"),
    Measured("WMT-14 English to French BLEU", "wmt14_en_fr", ("translation_en_fr",), "bleu"),
    Measured("WMT-14 French to English BLEU", "wmt14_fr_en", ("translation_fr_en",), "bleu"),
    Measured("Natural Questions accuracy", "natural_questions", ("open_qa",), "exact_match"),
    Measured(
        "Natural Questions accuracy, most confident 1 %",
        "natural_questions",
        ("open_qa",),
        "exact_match_most_confident_1_percent",
    ),
)
"""Table 3 in its order, then the results of the text and of Table 4."""


def table_3(*columns: str) -> dict[str, float]:
    """Return columns of Table 3, by column and model."""
    return {f"{c}, {size}": v for c in columns for size, v in zip(SIZES, TABLE_3[c], strict=True)}


def published(*names: str) -> dict[str, float]:
    """Return single results of the text and of Table 4."""
    return {name: OTHERS[name] for name in names}
