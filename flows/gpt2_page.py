"""The page of GPT-2's zero-shot results: the paper's tables with ours in them, and the figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flows.charts import Line, by_size, digits
from flows.evaluate import all_scores
from flows.page import Block, Picture, Shown
from modules.paper_gpt2 import (
    MEASURED,
    PARAMETERS,
    PREVIOUS,
    RELEASED,
    SIZES,
    TABLE_3,
    TABLE_4,
    TABLE_6,
    Measured,
)

Row = Mapping[str, Any]
"""A score as in scores.json."""
HOW = ("variant", "stride", "positions", "shots", "limit", "truncated", "precision", "signature")
LIKE = (
    '"like" before a number of ours: the set has the format of the paper\'s, its texts are others, '
    "so the number does not compare with the paper's. Without it the set is the paper's own. "
    "95 % intervals are from resampling the items (bootstrap)."
)


@dataclass(frozen=True)
class Asked:
    """A model and all its scores."""

    name: str
    parameters: int
    scores: Sequence[Row]

    @property
    def title(self) -> str:
        """What its columns and lines are called."""
        return f"{self.name} ({in_short(self.parameters)})"


def in_short(count: int) -> str:
    """Return a number of parameters as people say it."""
    return f"{count / 1e6:.0f}M" if count >= 1e7 else f"{count / 1e3:,.0f}k"


def blocks(asked: Sequence[Asked], absent: Sequence[str]) -> list[Block]:
    """Return the page: the paper's tables with ours, the sweep over sizes, every score."""
    table_3 = [m for m in MEASURED if m.name in TABLE_3]
    others = [m for m in MEASURED if m.name not in TABLE_3]
    figure_1 = [m for m in others if "ROUGE-" not in m.name]
    first, by = asked[0], sorted(asked, key=lambda model: model.parameters)
    return [
        beside("GPT-2, Table 3", table_3, first),
        beside("GPT-2, sections 3.3 to 3.8", others, first),
        sweep(by),
        *figure("Table 3's benchmarks against size", table_3, by),
        *figure("Tasks against size (as Figures 1 and 3)", figure_1, by),
        summarisation(),
        memorisation(),
        not_asked(absent),
        all_scores(first.scores),
    ]


def find(measured: Measured, model: Asked) -> Row | None:
    """Return a model's score of what the paper measured: on its own set, else on one like it."""
    for task in (measured.task, *measured.like):
        for row in model.scores:
            if (row["task"], row["metric"]) == (task, measured.metric) and (
                measured.variant in ("", row["protocol"]["variant"])
            ):
                return row
    return None


def beside(title: str, which: Sequence[Measured], model: Asked) -> Shown:
    """Return results of the paper, and ours, each with its interval, items, set and protocol."""
    sizes = [f"{size} ({name})" for size, name in zip(SIZES, RELEASED, strict=True)]
    ours = [f"ours: {model.title}", "95 % interval", "items", "our set", "protocol"]
    rows = []
    for m in which:
        paper = [number(x) for x in (PREVIOUS.get(m.name), *m.published)]
        rows.append([m.name, *paper, *our_cells(m, find(m, model))])
    return Shown(title, ["result", "before", *sizes, *ours], rows, LIKE)


def our_cells(measured: Measured, row: Row | None) -> list[str]:
    """Return the cells of our result."""
    if row is None:
        return ["-"] * 5
    like = "" if row["task"] == measured.task else "like: "
    cells = [f"{like}{value_of(measured, row)}", interval_of(measured, row), str(row["n"])]
    return [*cells, f"{row['task']}, {row['split']}", protocol(row)]


def protocol(row: Row) -> str:
    """Return in short how a score came about; the table of every score has all of it."""
    told = {key: row["protocol"].get(key) for key in HOW}
    return ", ".join(f"{key} {value}" for key, value in told.items() if value not in (None, "", 0))


def number(value: float | None) -> str:
    """Return a number of the paper as it is printed there, or a dash."""
    return "-" if value is None else f"{value:g}"


def value_of(measured: Measured, row: Row) -> str:
    """Return a value on the paper's scale."""
    return digits(measured.scale * row["value"])


def interval_of(measured: Measured, row: Row) -> str:
    """Return an interval on the paper's scale."""
    return f"{digits(measured.scale * row['low'])} to {digits(measured.scale * row['high'])}"


def sweep(models: Sequence[Asked]) -> Shown:
    """Return a row a result, a column a size."""
    models, rows = sorted(models, key=lambda model: model.parameters), []
    for m in MEASURED:
        found = [find(m, model) for model in models]
        if known := [row for row in found if row]:
            cells = [f"{value_of(m, r)} ({interval_of(m, r)})" if r else "-" for r in found]
            name = known[0]["task"]
            rows.append([m.name, name if name == m.task else f"like: {name}", *cells])
    header = ["result", "our set", *(model.title for model in models)]
    return Shown("Ours by size of the model", header, rows, LIKE)


def figure(title: str, which: Sequence[Measured], models: Sequence[Asked]) -> list[Block]:
    """Return the picture of what we have measured, if that is anything."""
    found = panels(which, models)
    return [Picture(title, by_size(found))] if found else []


def panels(which: Sequence[Measured], models: Sequence[Asked]) -> dict[str, dict[str, Line]]:
    """Return the lines of ours and of the paper, for what we have measured."""
    found: dict[str, dict[str, Line]] = {}
    for m in which:
        pairs = [(model, row) for model in models if (row := find(m, model))]
        if not pairs:
            continue
        like = "" if pairs[0][1]["task"] == m.task else " (a set like it)"
        mine = [
            (model.parameters, *(m.scale * row[x] for x in ("value", "low", "high")))
            for model, row in pairs
        ]
        paper = [
            (size, value, value, value)
            for size, value in zip(PARAMETERS, m.published, strict=True)
            if value is not None
        ]
        found[m.name] = {f"ours{like}": mine, "GPT-2, as published": paper}
    return found


def summarisation() -> Shown:
    """Return the paper's table of summaries."""
    rows = [[system, *map(number, values)] for system, values in TABLE_4.items()]
    header = ["system", "ROUGE-1", "ROUGE-2", "ROUGE-L", "average"]
    return Shown("The paper: CNN / Daily Mail (Table 4)", header, rows, "GPT-2 is 1542M (1.5B).")


def memorisation() -> Shown:
    """Return the paper's table of overlap; ours follows in "8-gram overlap"."""
    rows = [[name, *map(number, values)] for name, values in TABLE_6.items()]
    header = ["test set", "% in its own train split", "% in WebText"]
    return Shown("The paper: test 8-grams found in training text (Table 6)", header, rows)


def not_asked(absent: Sequence[str]) -> Shown:
    """Return which benchmarks had no rows, so that none is missing unseen."""
    note = "`textmill data TASK` brings the public ones, and the same command then asks them too."
    rows = [[name] for name in absent]
    return Shown("Benchmarks whose rows are not here", ["task"], rows, note)
