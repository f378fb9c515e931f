"""What all studies share: the checkpoint they start from, their report, how they end.

A study is a set of runs that makes tables or figures of a paper. GPT-1: study_results.py Tables 2
to 4, study_ablation.py Table 5, study_layers.py Figure 2 left, study_heuristics.py Figure 2 right.
GPT-2: study_zero_shot.py.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from flows.cells import Tuned, raise_if_failed
from flows.corpus import prepare_corpus
from flows.grid import Grid
from flows.page import Block, Picture, Shown, as_markdown, write_page
from flows.pretrain import pretrain
from flows.stage import Stage, show
from modules.config import Config
from modules.evaluation.comparison import Difference
from modules.files import Progress, write_bytes, write_json
from modules.run import RunConfig
from registry import artifacts
from registry.artifacts import Artifact
from registry.tables import Kind

Summary = dict[str, Any]


class StudyReport(Config):
    """What a study's report follows from, beside its cells."""

    study: str
    """Which study."""
    failed: dict[str, str] = Field(default_factory=dict)
    """Cells that failed, and why."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """What the cells themselves do not tell."""


def base(at: Stage, run: RunConfig, checkpoint: str = "") -> Artifact:
    """Return the checkpoint to start from; with none named, the run's, made where it is missing."""
    if not checkpoint:
        tokens = prepare_corpus(run.corpus)
        checkpoint = pretrain(run.pretrain, name=run.name, tokens=tokens)
    return artifacts.checkout(at.workspace, checkpoint)


def finish(
    at: Stage,
    study: str,
    start: Artifact,
    blocks: Sequence[Block],
    *,
    tuned: Tuned,
    inputs: Mapping[str, Artifact] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Summary:
    """Publish and show a study's report; return what the command line prints.

    Raises:
        ValueError: cells failed. The report shows the others.
    """
    failed = {label: str(cell["failed"]) for label, cell in tuned.items() if "failed" in cell}
    done = {
        label: artifacts.look_up(at.workspace, cell["fingerprint"])
        for label, cell in tuned.items()
        if label not in failed
    }
    if failed:
        rows = [[label, why] for label, why in failed.items()]
        blocks = [Shown("Failed", ["cell", "why"], rows), *blocks]
    title = f"Study {study} of {start.name}"

    def step(out: Path, progress: Progress) -> dict[str, Any]:
        write_page(out, title, blocks)
        for name, picture in pictures(study, blocks).items():
            write_bytes(out / name, picture.png)
        write_bytes(out / f"{study}.md", document(study, title, blocks).encode())
        tables = [{"title": b.title, "rows": b.rows} for b in blocks if isinstance(b, Shown)]
        write_json(out / "report.json", {"study": study, "tables": tables})
        return {"tables": len(tables), "pictures": len(pictures(study, blocks)), "cells": len(done)}

    report = at.make(
        Kind.REPORT,
        f"{start.name}-{study}",
        step,
        config=StudyReport(study=study, failed=failed, settings=dict(settings or {})),
        inputs={"checkpoint": start, **done, **(inputs or {})},
        version=1,
        title=f"report of study {study}",
    )
    for name in (*pictures(study, blocks), "report.html"):
        at.attach((report.path / name).read_bytes(), name)
    text = (report.path / "report.md").read_text()
    show(f"study-{study}", text, title)
    raise_if_failed(tuned)
    return {"markdown": as_markdown(title, [b for b in blocks if isinstance(b, Shown)])} | {
        "report": str(report.path),
        "study": study,
    }


def pictures(study: str, blocks: Sequence[Block]) -> dict[str, Picture]:
    """Return a page's pictures by the names of their files."""
    found = [block for block in blocks if isinstance(block, Picture)]
    return {f"{study}{'' if i == 0 else f'-{i + 1}'}.png": block for i, block in enumerate(found)}


def document(study: str, title: str, blocks: Sequence[Block]) -> str:
    """Return a page as Markdown whose pictures are files beside it: for a repository's docs."""
    names = iter(pictures(study, blocks))
    parts = [f"# {title}"]
    for block in blocks:
        if isinstance(block, Picture):
            parts.append(f"## {block.title}\n\n![{block.title}]({next(names)})")
        else:
            parts.append(block.as_markdown())
    return "\n\n".join(parts) + "\n"


def copy_to(summary: Summary, out: Path) -> list[Path]:
    """Copy a study's page and pictures to a folder of documents."""
    report, study = Path(summary["report"]), summary["study"]
    out.mkdir(parents=True, exist_ok=True)
    found = [report / f"{study}.md", *sorted(report.glob(f"{study}*.png"))]
    for path in found:
        write_bytes(out / path.name, path.read_bytes())
    return [out / path.name for path in found]


def percent(value: float) -> str:
    """Return a metric as the papers print it."""
    return f"{100 * value:.1f}"


def span(low: float, high: float) -> str:
    """Return an interval as the papers print numbers."""
    return f"{100 * low:.1f} to {100 * high:.1f}"


def told(found: Difference) -> str:
    """Return a difference with its interval and p value."""
    p = "< 0.001" if found.p < 0.001 else f"{found.p:.3f}"
    return f"{100 * found.mean:+.1f} ({span(found.low, found.high)}), p {p}"


def cell_text(grid: Grid, way: str, task: str) -> str:
    """Return one cell of a table: the mean over seeds and its interval."""
    entry = grid.entries.get((way, task))
    return f"{percent(entry.mean)} ({span(*entry.interval)})" if entry else "failed"


TESTS = (
    "Each number is the mean over seeds, in percent, with its 95 % interval from resampling test "
    "items and seeds (bootstrap). Differences are taken on the same resampled items and seeds, "
    "since all rows answer the same items; p is two-sided and not corrected for the number of "
    "tasks. The average takes these tasks as given."
)
