"""The types every benchmark is made of.

A benchmark is one file in modules/tasks/ with a TASK in it. The same Task serves fine-tuning
(GPT-1's input transformations, Figure 1) and zero-shot evaluation (GPT-2, section 3).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from modules.row_checks import UNLABELLED, as_number, check_columns, is_withheld, label_of
from modules.rows import Row, find_rows, read_rows

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
    fallback: int = 0  # lines whose de-tokenizer could not be undone: they are read raw
    before: str = ""  # text read before it, which is scored elsewhere


Item = Example | Choice | Cloze | Prompt | Passage
Items = Callable[[list[Row]], list[Any]]
"""How checked rows become items."""
Metric = Callable[[list[Any], list[Any]], float]
"""metric(predictions, references) -> value, higher is better unless the name says otherwise."""


@dataclass(frozen=True)
class Task:
    """Where a benchmark's rows come from, how a row becomes items, and how they are scored."""

    name: str
    format: Format
    version: int  # a changed prompt, label order or metric is a new number
    columns: tuple[str, ...]  # every row must have these
    items: Items
    metrics: dict[str, Metric]  # the first one is the headline
    # where the rows are
    source: str = ""  # path below the data folder, without split and ending; empty: hub/HUB
    hub: str | None = None  # "id" or "id config" of the public set whose rows these are
    like: str | None = None  # the public set whose shape this has; its rows are others
    by_hand: str = ""  # how to get the files where `textmill data` cannot
    splits: dict[str, str] = field(
        default_factory=dict
    )  # "train" -> file (the hub's split); empty: one file, `source`
    pick: dict[str, Callable[[list[Row]], list[Row]]] = field(
        default_factory=dict
    )  # split -> which of its file's rows are its own; absent: all
    scored: tuple[str, ...] = ("test",)  # splits that scores are reported on, the headline first
    withheld: tuple[str, ...] = ()  # splits without labels: for a benchmark's server
    # how they are read
    key: str = "id"  # column with a row's name; without it rows are numbered from 0
    also: dict[str, str] = field(default_factory=dict)  # the set's own release's name -> column
    lists: tuple[str, ...] = ()  # columns that hold a list of texts
    may_be_empty: tuple[str, ...] = ()  # columns, or COLUMN@KEY for single rows that the set has so
    label: str = "label"  # column of the label
    labels: tuple[str, ...] = ()  # label names in index order; rows hold the index or the name
    label_from: int = 0  # the first label's number in the rows
    scale: tuple[float, float] | None = None  # the label is a score between these
    no_gold: int | None = None  # label of rows that annotators disagreed on: dropped and counted
    # what is reported
    paper: str = ""  # section of the paper whose protocol this follows
    reference: dict[str, float] = field(default_factory=dict)  # the paper's result, by model
    note: str = ""  # why a score here does not compare with the paper's, if so
    shots: int = 0  # examples before each prompt, where the task has them
    few_shot: Callable[[int], Items] | None = None  # `items` by the number of examples
    examples: str = ""  # split whose first rows are the examples; empty: rows marked so by `use`
    generation: dict[str, Any] = field(default_factory=dict)  # max_new_tokens, top_k, stop, ...
    variant: str = ""  # what `items` is called in the protocol where there are `variants` beside it
    variants: dict[str, Items] = field(
        default_factory=dict
    )  # other ways to ask the same rows, reported side by side
    notes: dict[str, Any] = field(default_factory=dict)  # for the scores' protocol

    @property
    def folder(self) -> str:
        """Where the rows are, below the data folder: hub/ID/CONFIG for a public set."""
        if self.source:
            return self.source
        hub, _, config = (self.hub or self.name).partition(" ")
        return f"hub/{hub}/{config or 'default'}"

    @property
    def labelled(self) -> bool:
        """Whether a row has one label, which is checked and becomes its index or score."""
        return self.format in FINETUNE_FORMATS or bool(self.labels)


@dataclass(frozen=True)
class Split:
    """A split's checked rows."""

    rows: list[Row]
    labelled: bool  # whether they can be scored
    no_gold: int = 0  # rows left out because annotators did not agree


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
        return data / task.folder
    if split not in task.splits:
        raise ValueError(f"task {task.name} has no split {split!r}; it has {sorted(task.splits)}")
    return data / task.folder / task.splits[split]


def find_split(task: Task, data: Path, split: str) -> Path:
    """Return the file of a split's rows.

    Raises:
        FileNotFoundError: it is not there; says how to get it.
    """
    path = data_path(task, data, split)
    try:
        return find_rows(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; {how_to_get(task)}") from None


def split_files(task: Task, data: Path) -> list[Path]:
    """Return the files that fine-tuning reads: of all splits but those without labels."""
    return sorted({find_split(task, data, s) for s in task.splits if s not in task.withheld})


def how_to_get(task: Task) -> str:
    """Return the mend for a task's missing files."""
    if task.by_hand:
        return f"task {task.name}: {task.by_hand}"
    if task.hub:
        return (
            f"`textmill data {task.name}` gets it from {task.hub}; by hand: put the set's files "
            f"there, with its own columns {', '.join(task.columns)}"
        )
    return "bring the data (`make data`, or `dvc pull data.dvc`)"


def load_rows(task: Task, data: Path, split: str) -> list[Row]:
    """Read a split's rows, checked: see `load_split`."""
    return load_split(task, data, split).rows


def load_split(task: Task, data: Path, split: str) -> Split:
    """Read a split's rows, checked; `label` becomes the index or score, `id` the row's name.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: a row lacks a column or text, or has an unknown label; names file, row, column.
    """
    path = find_split(task, data, split)
    rows = [renamed(task, row) for row in read_rows(path)]
    if not rows:
        raise ValueError(f"{path}: no rows in it (task {task.name})")
    gold = not (split in task.withheld and all(is_withheld(row.get(task.label)) for row in rows))
    kept = []
    for number, row in enumerate(rows):
        where = f"{path}, row {number + 1}"
        check_columns(task, row, where, gold=gold)
        row["id"] = str(row.get(task.key, number))
        if task.labelled:
            if task.no_gold is not None and as_number(row[task.label]) == task.no_gold:
                continue
            row["label"] = label_of(task, row, where) if gold else UNLABELLED
        kept.append(row)
    chosen = task.pick[split](kept) if split in task.pick else kept
    return Split(chosen, gold, len(rows) - len(kept))


def with_shots(task: Task, shots: int) -> Task:
    """Return a task with another number of examples before each prompt.

    Raises:
        ValueError: the task has no examples.
    """
    if task.few_shot is None:
        raise ValueError(f"task {task.name} has no examples before its prompts")
    return replace(task, items=task.few_shot(shots), shots=shots)


def asked_rows(task: Task, data: Path, split: str) -> list[Row]:
    """Read a split's rows, before them those that serve as examples."""
    rows = load_rows(task, data, split)
    if not (task.examples and task.shots):
        return rows
    examples = load_rows(task, data, task.examples)[: task.shots]
    return [{**r, "use": "example", "id": f"{task.examples}/{r['id']}"} for r in examples] + rows


def renamed(task: Task, row: Row) -> Row:
    """Return a row under the hub's column names."""
    return {task.also.get(k, k): v for k, v in row.items()} if task.also else row


SPLITS = {"train": "train", "val": "val", "test": "test"}


def classify(text: str) -> Items:
    """Make rows into examples of one text: S text E (GPT-1, Figure 1)."""

    def items(rows: list[Row]) -> list[Example]:
        return [Example(row_id(r, i), ((r[text],),), r["label"]) for i, r in enumerate(rows)]

    return items


def entail(premise: str, hypothesis: str) -> Items:
    """Make rows into examples of a pair: S premise D hypothesis E (GPT-1, section 3.3)."""

    def items(rows: list[Row]) -> list[Example]:
        return [
            Example(row_id(r, i), ((r[premise], r[hypothesis]),), r["label"])
            for i, r in enumerate(rows)
        ]

    return items


def compare(a: str, b: str) -> Items:
    """Make rows into examples of a pair in both orders (GPT-1, section 3.3)."""

    def items(rows: list[Row]) -> list[Example]:
        return [
            Example(row_id(r, i), ((r[a], r[b]), (r[b], r[a])), r["label"])
            for i, r in enumerate(rows)
        ]

    return items


def choose(document: str, question: str, answers: str) -> Items:
    """Make rows into one sequence per answer: S z q D a_k E (GPT-1, section 3.3).

    Document and question are joined without a delimiter token; an empty question adds nothing.
    """

    def items(rows: list[Row]) -> list[Example]:
        return [
            Example(
                row_id(r, i),
                tuple((f"{r[document]} {r[question]}".rstrip(), a) for a in r[answers]),
                r["label"],
            )
            for i, r in enumerate(rows)
        ]

    return items


classification = classify("text")
entailment = entail("premise", "hypothesis")
similarity = compare("text_a", "text_b")
multiple_choice = choose("document", "question", "answers")


def row_id(row: Row, number: int) -> str:
    """Return a row's own id, or its number (from 0) where the data set has none."""
    return str(row.get("id", number))


def passages(rows: list[Row]) -> list[Passage]:
    """Turn rows {text} into running text, scored per whitespace-separated word."""
    return [
        Passage(row_id(r, i), r["text"], len(r["text"].split()), domain=r.get("domain", ""))
        for i, r in enumerate(rows)
    ]
