"""Prediction files in the format of GLUE's server (Wang et al. 2019; gluebenchmark.com/faq).

One TSV a set, `index<TAB>prediction`: names for the inference sets, numbers for the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modules.task import Row, Task

HUB = "nyu-mll/glue"


@dataclass(frozen=True)
class Submission:
    """One file of a submission and where its rows lie."""

    file: str
    config: str  # of the hub
    split: str
    named: bool = False  # label names, else numbers


NLI = Submission("AX.tsv", "ax", "test", named=True)
FILES: dict[str, tuple[Submission, ...]] = {
    "cola": (Submission("CoLA.tsv", "cola", "test"),),
    "sst2": (Submission("SST-2.tsv", "sst2", "test"),),
    "mrpc": (Submission("MRPC.tsv", "mrpc", "test"),),
    "stsb": (Submission("STS-B.tsv", "stsb", "test"),),
    "qqp": (Submission("QQP.tsv", "qqp", "test"),),
    "mnli": (
        Submission("MNLI-m.tsv", "mnli", "test_matched", named=True),
        Submission("MNLI-mm.tsv", "mnli", "test_mismatched", named=True),
        NLI,  # the diagnostics are answered by MNLI's model
    ),
    "qnli": (Submission("QNLI.tsv", "qnli", "test", named=True),),
    "rte": (Submission("RTE.tsv", "rte", "test", named=True),),
    "wnli": (Submission("WNLI.tsv", "wnli", "test"),),
}
"""GLUE's configuration on the hub -> the files that its model fills."""


def files_of(task: Task) -> tuple[Submission, ...]:
    """Return the files a task's model fills.

    Raises:
        ValueError: the task is none of GLUE's.
    """
    hub, _, config = (task.hub or "").partition(" ")
    if hub != HUB or config not in FILES:
        raise ValueError(f"task {task.name} is none of GLUE's {', '.join(FILES)}")
    return FILES[config]


def tsv(wanted: Submission, rows: Sequence[Row], answers: Sequence[Mapping[str, Any]]) -> str:
    """Return a file's text, in the order of the rows' `idx` (their number where they have none).

    Raises:
        ValueError: two rows have one index.
    """
    indices = [int(row.get("idx", number)) for number, row in enumerate(rows)]
    if len(set(indices)) < len(indices):
        raise ValueError(f"{wanted.file}: two rows have one idx")
    lines = sorted(zip(indices, (written(wanted, a) for a in answers), strict=True))
    return "index\tprediction\n" + "".join(f"{index}\t{text}\n" for index, text in lines)


def written(wanted: Submission, answer: Mapping[str, Any]) -> str:
    """Return one prediction as GLUE writes it."""
    if wanted.config == "stsb":
        return f"{min(max(float(answer['label']), 0.0), 5.0):.3f}"  # scores from 0 to 5
    return str(answer["label"] if wanted.named else answer["index"])
