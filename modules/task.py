"""The types every benchmark is made of.

A benchmark is one file in modules/tasks/ with a TASK in it. The same Task serves fine-tuning
(GPT-1's input transformations, Figure 1) and zero-shot evaluation (GPT-2, section 3).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from modules.files import find_jsonl, read_jsonl

Format = Literal[
    "classification",  # one text -> label
    "entailment",  # premise, hypothesis -> label
    "similarity",  # two texts, both orders -> label
    "multiple_choice",  # document + question, k answers -> index
    "perplexity",  # running text, scored per canonical unit
    "cloze",  # predict the last word (LAMBADA)
    "choice",  # pick the continuation or filling with the highest probability
    "generation",  # generate after a prompt, compare with references
]
FINETUNE_FORMATS = ("classification", "entailment", "similarity", "multiple_choice")

Row = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """One labelled example for fine-tuning, before tokenisation.

    `texts` holds one tuple of segments per sequence the network reads; the segments are joined by
    the delimiter token: classification (("text",),); entailment (("premise", "hypothesis"),);
    similarity both orders (("a", "b"), ("b", "a")); multiple choice ("z q", "answer") per answer.
    """

    id: str
    texts: tuple[tuple[str, ...], ...]
    label: float  # an index (int), or a score where the task has a scale


@dataclass(frozen=True)
class Choice:
    """Candidates to rank, each (context, continuation); P(continuation | context) decides."""

    id: str
    candidates: tuple[tuple[str, str], ...]
    label: int


@dataclass(frozen=True)
class Cloze:
    """A passage without its last word, and that word (with its leading space)."""

    id: str
    context: str
    target: str


@dataclass(frozen=True)
class Prompt:
    """A prompt to continue, and the references its continuation is compared with."""

    id: str
    prompt: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Passage:
    """Running text to be scored: `text` is what the model reads, `units` what the score is per."""

    id: str
    text: str
    units: int  # canonical units of the benchmark: words, bytes, characters
    original: str = ""  # the file's own form, where a de-tokenizer changed it
    domain: str = ""
    fallback: bool = False  # the de-tokenizer could not be undone: the raw text is read


Item = Example | Choice | Cloze | Prompt | Passage
Metric = Callable[[list[Any], list[Any]], float]
"""metric(predictions, references) -> value, higher is better unless the name says otherwise."""


@dataclass(frozen=True)
class Task:
    """Where a benchmark's rows come from, how a row becomes items, and how they are scored."""

    name: str
    format: Format
    version: int  # a changed prompt, label order or metric is a new number
    source: str  # path below the data folder, without split and ending
    columns: tuple[str, ...]  # every row must have these
    items: Callable[[list[Row]], list[Any]]
    metrics: dict[str, Metric]  # the first one is the headline
    labels: tuple[str, ...] = ()  # label names in index order; rows hold the index or the name
    scale: tuple[float, float] | None = None  # the label is a score between these
    splits: dict[str, str] = field(
        default_factory=dict
    )  # "train" -> file; empty: one file, `source`
    hub: str | None = None  # hub id (and config) of the public data set of this format
    paper: str = ""  # section of the paper whose protocol this follows
    reference: dict[str, float] = field(default_factory=dict)  # the paper's result, by model
    generation: dict[str, Any] = field(default_factory=dict)  # max_new_tokens, top_k, stop, ...
    variant: str = ""  # what `items` is called in the protocol where there are `variants` beside it
    variants: dict[str, Callable[[list[Row]], list[Any]]] = field(
        default_factory=dict
    )  # other ways to ask the same rows, reported side by side
    notes: dict[str, Any] = field(default_factory=dict)  # for the scores' protocol


@dataclass(frozen=True)
class Score:
    """One number with everything needed to compare it: protocol, size and interval."""

    task: str
    metric: str
    value: float
    n: int  # items behind the number
    low: float  # 95 % bootstrap interval
    high: float
    split: str
    task_version: int
    protocol: dict[str, Any]  # stride, scoring variant, few-shot count, limit, ...


def data_path(task: Task, data: Path, split: str) -> Path:
    """Return the path (without ending) of a split's rows below the data folder.

    Raises:
        ValueError: the task has no such split.
    """
    if not task.splits:
        return data / task.source
    if split not in task.splits:
        raise ValueError(f"task {task.name} has no split {split!r}; it has {sorted(task.splits)}")
    return data / task.source / task.splits[split]


def load_rows(task: Task, data: Path, split: str) -> list[Row]:
    """Read a split's rows, checked; fine-tuning labels become the index.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: a row lacks a column or has an unknown label; names file, row and column.
    """
    path = find_jsonl(data_path(task, data, split))
    rows = list(read_jsonl(path))
    if not rows:
        raise ValueError(f"{path}: no rows in it (task {task.name})")
    for number, row in enumerate(rows, 1):
        where = f"{path}, row {number}"
        for column in task.columns:
            if row.get(column) is None:
                raise ValueError(
                    f"{where}: column {column!r} is missing (has {', '.join(sorted(row))}); "
                    f"task {task.name} needs {', '.join(task.columns)}"
                )
        if task.format in FINETUNE_FORMATS:
            row["label"] = score(task, row, where) if task.scale else label_index(task, row, where)
    return rows


def label_index(task: Task, row: Row, where: str) -> int:
    """Return the index of a row's label, which may be written as index or as name."""
    label = row["label"]
    allowed = task.labels or tuple(str(i) for i in range(len(row["answers"])))
    if isinstance(label, str) and label in task.labels:
        return task.labels.index(label)
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(allowed):
        return label
    raise ValueError(f"{where}: column 'label' is {label!r}; allowed: {', '.join(allowed)}")


def score(task: Task, row: Row, where: str) -> float:
    """Return a row's score."""
    assert task.scale is not None, "only tasks with a scale have scores"
    low, high = task.scale
    label = row["label"]
    if isinstance(label, int | float) and not isinstance(label, bool) and low <= label <= high:
        return float(label)
    raise ValueError(f"{where}: column 'label' is {label!r}; allowed: {low} to {high}")


SPLITS = {"train": "train", "val": "val", "test": "test"}


def classification(rows: list[Row]) -> list[Example]:
    """Turn rows {text, label} into examples: S text E (GPT-1, Figure 1)."""
    return [Example(row_id(r, i), ((r["text"],),), r["label"]) for i, r in enumerate(rows)]


def entailment(rows: list[Row]) -> list[Example]:
    """Turn rows {premise, hypothesis, label} into examples: S premise D hypothesis E (3.3)."""
    return [
        Example(row_id(r, i), ((r["premise"], r["hypothesis"]),), r["label"])
        for i, r in enumerate(rows)
    ]


def similarity(rows: list[Row]) -> list[Example]:
    """Turn rows {text_a, text_b, label} into examples with both orders (GPT-1, section 3.3)."""
    return [
        Example(row_id(r, i), ((r["text_a"], r["text_b"]), (r["text_b"], r["text_a"])), r["label"])
        for i, r in enumerate(rows)
    ]


def multiple_choice(rows: list[Row]) -> list[Example]:
    """Turn rows {document, question, answers, label} into examples: S z q D a_k E (section 3.3).

    Document and question are joined without a delimiter token; an empty question adds nothing.
    """
    return [
        Example(
            row_id(r, i),
            tuple((f"{r['document']} {r['question']}".rstrip(), a) for a in r["answers"]),
            r["label"],
        )
        for i, r in enumerate(rows)
    ]


def row_id(row: Row, number: int) -> str:
    """Return a row's own id, or its number (from 0) where the data set has none."""
    return str(row.get("id", number))


def passages(rows: list[Row]) -> list[Passage]:
    """Turn rows {text} into running text, scored per whitespace-separated word."""
    return [
        Passage(row_id(r, i), r["text"], len(r["text"].split()), domain=r.get("domain", ""))
        for i, r in enumerate(rows)
    ]
