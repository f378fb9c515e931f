"""GPT-2's results as published (Radford et al. 2019, Table 3, sections 3.3 to 3.8)."""

SIZES = ("117M", "345M", "762M", "1542M")
"""The paper's names of the four models; the released weights are called 124M, 355M, 774M, 1.5B."""

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


def table_3(*columns: str) -> dict[str, float]:
    """Return columns of Table 3, by column and model."""
    return {f"{c}, {size}": v for c in columns for size, v in zip(SIZES, TABLE_3[c], strict=True)}


def published(*names: str) -> dict[str, float]:
    """Return single results of the text and of Table 4."""
    return {name: OTHERS[name] for name in names}
