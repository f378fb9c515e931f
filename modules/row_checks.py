"""Check a benchmark's rows, whatever file they are from: columns, texts, labels.

Every error names file, row (from 1) and column.
"""

from typing import TYPE_CHECKING, Any

from modules.rows import Row

if TYPE_CHECKING:
    from modules.task import Task

UNLABELLED = -1  # label of an example of a split whose labels are withheld; GLUE's on the hub


def is_withheld(label: Any) -> bool:
    """Return whether this is what a public set writes in place of a label it keeps to itself."""
    return label is None or as_number(label) == UNLABELLED


def check_columns(task: "Task", row: Row, where: str, *, gold: bool) -> None:
    """Refuse a row that lacks a column or a text."""
    for column in task.columns:
        if column == task.label and not gold:
            continue
        if row.get(column) is None:
            raise ValueError(
                f"{where}: column {column!r} is missing (has {', '.join(sorted(row))}); "
                f"task {task.name} needs {', '.join(task.columns)}"
            )
        if task.labelled and column != task.label:
            check_text(task, row, column, where)


def check_text(task: "Task", row: Row, column: str, where: str) -> None:
    """Refuse a column without text, or without a list of texts where it should hold one."""
    texts = row[column] if column in task.lists else [row[column]]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts) or not texts:
        what = "a list of texts" if column in task.lists else "a text"
        raise ValueError(f"{where}: column {column!r} is {row[column]!r:.80}, not {what}")
    known = {column, f"{column}@{row.get(task.key)}"} & set(task.may_be_empty)
    if not known and not all(text.strip() for text in texts):
        raise ValueError(f"{where}: column {column!r} has no text")


def label_of(task: "Task", row: Row, where: str) -> float:
    """Return the index or score of a row's label; an index may be written as the label's name."""
    label = row[task.label]
    number = as_number(label)
    wrong = f"{where}: column {task.label!r} is {label!r}; allowed: "
    if task.scale:
        low, high = task.scale
        if number is not None and low <= number <= high:
            return number
        raise ValueError(f"{wrong}{low:g} to {high:g}")
    several = len(row[task.lists[0]]) if task.lists else len(task.labels)
    names = (task.labels or tuple(map(str, range(several))))[:several]
    if label in names:
        return names.index(label)
    if number is not None and number - task.label_from in range(several):
        return int(number) - task.label_from
    first = f" (or numbers from {task.label_from})" if task.labels else ""
    raise ValueError(f"{wrong}{', '.join(names)}{first}")


def as_number(label: Any) -> float | None:
    """Return a label's number, which CSV files hold as text; None if it is none."""
    if isinstance(label, bool) or not isinstance(label, int | float | str):
        return None
    try:
        return float(label)
    except ValueError:
        return None
