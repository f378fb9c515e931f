"""What the `textmill` command prints: one console for answers, one for errors, and its tables."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

INTERRUPTED = 75  # EX_TEMPFAIL: run the same command again to continue
WIDE = 118  # columns where nobody's terminal says otherwise

console = Console(width=None if sys.stdout.isatty() else WIDE)
errors = Console(stderr=True, width=None if sys.stderr.isatty() else WIDE)


def fail(message: str, code: int) -> NoReturn:
    """Print one line to stderr and exit."""
    errors.print(f"[bold red]textmill:[/bold red] {escape(message)}", soft_wrap=True)
    if os.environ.get("TEXTMILL_DEBUG"):
        raise
    sys.exit(code)


def one_line(error: Exception) -> str:
    """Return what a user's mistake was."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"setting {where or error.title}: {first['msg']} (got {first['input']!r})"[:400]
    return " ".join(str(error).split())


def escape(text: str) -> str:
    """Return text in which nothing is a style."""
    return text.replace("[", "\\[")


def run_flow(flow: Any, *arguments: Any, **named: Any) -> Any:
    """Run a flow in this process."""
    from prefect.exceptions import TerminationSignal

    from flows.stage import Interrupted
    from registry.runs import LeaseLost

    try:
        return flow(*arguments, **named)
    except (KeyboardInterrupt, TerminationSignal):
        fail("stopped by a signal; run the same command again to continue", INTERRUPTED)
    except (Interrupted, LeaseLost) as error:
        fail(str(error), INTERRUPTED)


def plain(markdown: str) -> Any:
    """Return Markdown as the terminal shows it."""
    from rich.markdown import Markdown

    return Markdown(markdown)


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int, str], None]]:
    """Yield progress(done, total, note), drawn while the block runs and gone after it."""
    columns = (TextColumn(f"  {what}"), BarColumn(bar_width=30), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as p:
        row = p.add_task(what, total=None)
        yield lambda done, total, note: p.update(row, completed=done, total=total)


def print_shown(shown: Any) -> None:
    """Print a table of a page; columns of numbers are aligned to the right."""
    table = Table(title=shown.title, title_justify="left", caption_justify="left")
    for name, cell in zip(shown.header, shown.rows[0], strict=True):
        table.add_column(name, justify="right" if cell[:1].isdigit() else "left")
    for row in shown.rows:
        table.add_row(*map(escape, row))
    console.print(table)
    console.print(escape(shown.note) + "\n", style="dim", highlight=False)


def print_scores(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print scores with their intervals."""
    table = Table("task", "metric", "value", "95 % interval", "items", title="Scores")
    for row in rows:
        table.add_row(
            row["task"],
            row["metric"],
            f"{row['value']:.4g}",
            f"{row['low']:.4g} to {row['high']:.4g}",
            str(row["n"]),
        )
    console.print(table)


def print_summary(workspace: Any, summary: Mapping[str, Any]) -> None:
    """Print what a chain made and where to look at it."""
    console.print()
    for table in summary["tables"]:
        shown = Table(*table["header"], title=table["title"], title_justify="left")
        for row in table["rows"]:
            shown.add_row(*row)
        console.print(shown)
    console.print(summary["notes"])
    report = Path(summary["report"]).relative_to(workspace.root)
    model = f"{summary['model']}@champion"
    console.print(
        f"\n[bold]Where to look[/bold]\n"
        f"  {report}/report.html        this page with its pictures\n"
        f"  textmill up                 the Prefect UI (runs, pictures), the MLflow UI (models)\n"
        f"  textmill models             what is registered\n"
        f"  textmill lineage {model}\n"
        f'  textmill generate "The people of this country" --model {model}',
        soft_wrap=True,
    )


def print_runs(runs: Iterable[Any], dead: set[str]) -> None:
    """Print runs of the catalogue; `dead` are those whose process is gone."""
    table = Table("started", "stage", "state", "took", "what to do", title="Newest runs")
    for run in runs:
        gone = run.id in dead or run.status == "interrupted"
        end = f"{(run.ended - run.started).total_seconds():.0f} s" if run.ended else ""
        table.add_row(
            f"{run.started:%Y-%m-%d %H:%M:%S}",
            run.stage if run.name == run.stage else f"{run.stage} {run.name}",
            "interrupted" if gone else str(run.status),
            end,
            "run the same command again to continue" if gone else run.detail[:60],
        )
    console.print(table)


def print_checks(checks: Iterable[Any]) -> bool:
    """Print what `doctor` found; return whether all is well."""
    table = Table("", "check", "found", "mend")
    well = True
    for check in checks:
        well = well and check.good
        mark = "[green]ok[/green]" if check.good else "[red]!![/red]"
        table.add_row(mark, check.name, check.found, check.mend)
    console.print(table)
    return well


def print_models(rows: Iterable[Mapping[str, Any]], most: int = 3) -> None:
    """Print registered model versions, each with at most so many scores."""
    table = Table("model", "version", "alias", "checkpoint", "made", "scores")
    for row in rows:
        scores = [f"{k[6:]} {v}" for k, v in row["tags"].items() if k.startswith("score.")]
        table.add_row(
            row["name"],
            str(row["version"]),
            ", ".join(row["aliases"]),
            row["artifact"],
            f"{row['created']:%Y-%m-%d %H:%M}",
            _some([x for x in scores if "bits_per_byte" in x or "accuracy" in x], most),
        )
    console.print(table)


def print_history(moves: Iterable[Any]) -> None:
    """Print every move of an alias, oldest first."""
    table = Table("when", "who", "alias", "from", "to", "why", "scores then")
    for move in moves:
        table.add_row(
            f"{move.created:%Y-%m-%d %H:%M:%S}",
            escape(move.who),
            move.alias,
            str(move.previous or "-"),
            str(move.version),
            escape(move.reason),
            _scores_then(move.scores),
        )
    console.print(table)


def _scores_then(scores: Mapping[str, Mapping[str, float]], most: int = 3) -> str:
    """Return the first few scores, each in a line: set, metric, value."""
    lines = [f"{' '.join(key.split()[:2])} {x['value']:.4g}" for key, x in scores.items()]
    return _some(lines, most)


def _some(lines: list[str], most: int) -> str:
    """Return the first few lines, and how many more there are."""
    more = [f"and {len(lines) - most} more (--json)"] if len(lines) > most else []
    return "\n".join(lines[:most] + more)


def print_ledger(counts: Iterable[Any]) -> None:
    """Print how many links stand where in the crawl ledger."""
    table = Table("links", "state", "last outcome", title="Crawl ledger")
    for count in counts:
        table.add_row(f"{count.n:,}", count.state, escape(count.reason))
    console.print(table)


def print_overlap(found: Mapping[str, Any]) -> None:
    """Print which part of each evaluation set's 8-grams is in a corpus."""
    table = Table("data set", "own train split", "corpus", "items with any", title="Overlap")
    for row in found["data_sets"]:
        own = "-" if row["own_train"] is None else f"{row['own_train']:.2%}"
        items = f"{row['items_with_any']:,} of {row['items']:,}"
        table.add_row(row["task"], own, f"{row['corpus']:.2%}", items)
    console.print(table)
