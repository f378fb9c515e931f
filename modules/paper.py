"""GPT-1's result tables as data, in per cent (Radford et al. 2018; gpt1.md 5, 7)."""

from dataclasses import dataclass

GPT1 = "GPT-1"

GPT1_TASKS = (
    *("snli", "mnli", "qnli", "rte", "scitail"),
    *("race", "story_cloze"),
    *("mrpc", "qqp", "stsb"),
    *("sst2", "cola"),
)
"""The data sets of Table 1, by kind of task."""

GPT1_ABLATION_TASKS = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
"""The columns of Table 5, whose average is the mean of the eight."""


@dataclass(frozen=True)
class Column:
    """What a column of a table measures; the paper's own numbers are of test splits."""

    title: str
    task: str
    metric: str = "accuracy"
    splits: tuple[str, ...] = ()  # of our task, averaged; none: the first one that it scores


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper: methods in rows, None where it has no number."""

    title: str
    columns: tuple[Column, ...]
    rows: dict[str, tuple[float | None, ...]]
    ours: str = GPT1  # the row that our runs reproduce


TABLE_2 = PaperTable(
    "Natural language inference (Table 2)",
    (
        Column("MNLI-m", "mnli", splits=("val",)),
        Column("MNLI-mm", "mnli", splits=("val_mismatched",)),
        Column("SNLI", "snli"),
        Column("SciTail", "scitail"),
        Column("QNLI", "qnli"),
        Column("RTE", "rte"),
    ),
    {
        "ESIM + ELMo (5x)": (None, None, 89.3, None, None, None),
        "CAFE (5x)": (80.2, 79.0, 89.3, None, None, None),
        "Stochastic Answer Network (3x)": (80.6, 80.1, None, None, None, None),
        "CAFE": (78.7, 77.9, 88.5, 83.3, None, None),
        "GenSen": (71.4, 71.3, None, None, 82.3, 59.2),
        "Multi-task BiLSTM + Attn": (72.2, 72.1, None, None, 82.1, 61.7),
        GPT1: (82.1, 81.4, 89.9, 88.3, 88.1, 56.0),
    },
)

TABLE_3 = PaperTable(
    "Question answering and commonsense (Table 3)",
    (
        Column("Story Cloze", "story_cloze"),
        Column("RACE-m", "race", splits=("test_middle",)),
        Column("RACE-h", "race", splits=("test_high",)),
        Column("RACE", "race"),
    ),
    {
        "val-LS-skip": (76.5, None, None, None),
        "Hidden Coherence Model": (77.6, None, None, None),
        "Dynamic Fusion Net (9x)": (None, 55.6, 49.4, 51.2),
        "BiAttention MRU (9x)": (None, 60.2, 50.3, 53.3),
        GPT1: (86.5, 62.9, 57.4, 59.0),
    },
)

TABLE_4 = PaperTable(
    "Classification and similarity (Table 4)",
    (
        Column("CoLA", "cola", "matthews"),
        Column("SST-2", "sst2"),
        Column("MRPC", "mrpc", "f1"),
        Column("STS-B", "stsb", "pearson"),
        Column("QQP", "qqp", "f1"),
    ),
    {
        "Sparse byte mLSTM": (None, 93.2, None, None, None),
        "TF-KLD": (None, None, 86.0, None, None),
        "ECNU (mixed ensemble)": (None, None, None, 81.0, None),
        "Single-task BiLSTM + ELMo + Attn": (35.0, 90.2, 80.2, 55.5, 66.1),
        "Multi-task BiLSTM + ELMo + Attn": (18.9, 91.6, 83.5, 72.8, 63.3),
        GPT1: (45.4, 91.3, 82.3, 82.0, 70.3),
    },
)

GLUE_SCORES = {
    "Single-task BiLSTM + ELMo + Attn": 64.8,
    "Multi-task BiLSTM + ELMo + Attn": 68.9,
    GPT1: 72.8,
}
"""Table 4's last column: see modules.glue.glue_score."""

TABLE_5 = PaperTable(
    "Ablation (Table 5)",
    (
        *TABLE_4.columns,
        Column("MNLI", "mnli", splits=("val", "val_mismatched")),
        Column("QNLI", "qnli"),
        Column("RTE", "rte"),
    ),
    {
        "Transformer w/ aux LM (full)": (45.4, 91.3, 82.3, 82.0, 70.3, 81.8, 88.1, 56.0),
        "Transformer w/o pre-training": (18.9, 84.0, 79.4, 30.9, 65.5, 75.7, 71.2, 53.8),
        "Transformer w/o aux LM": (47.9, 92.0, 84.9, 83.2, 69.8, 81.1, 86.9, 54.4),
        "LSTM w/ aux LM": (30.3, 90.5, 83.2, 71.8, 68.1, 73.7, 81.1, 54.6),
    },
    ours="Transformer w/ aux LM (full)",
)
TABLE_5_AVERAGES = {
    "Transformer w/ aux LM (full)": 74.7,
    "Transformer w/o pre-training": 59.9,
    "Transformer w/o aux LM": 75.0,
    "LSTM w/ aux LM": 69.1,  # 69.16 by its own columns
}

GPT1_TABLES = (TABLE_2, TABLE_3, TABLE_4, TABLE_5)
