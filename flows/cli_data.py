"""`textmill data`: bring the rows of public benchmarks, or show which are there."""

from typing import Annotated

import typer
from rich.table import Table

from flows.terminal import bar, console

app = typer.Typer()


@app.command()
def data(
    task: Annotated[list[str] | None, typer.Argument(help="Tasks; none: show all.")] = None,
) -> None:
    """Get the public rows of tasks from the Hugging Face hub, and check every one of them."""
    from flows.settings import enter
    from modules import hub, tasks
    from modules.task import load_split

    folder = enter().data
    chosen = [tasks.get(name) for name in task or ()]
    if not chosen:
        table = Table("task", "hub", "below data/", "there", title="Public sets")
        for found in filter(lambda t: t.hub or t.by_hand, tasks.TASKS.values()):
            there = ", ".join(hub.splits_there(found, folder)) or "-"
            table.add_row(found.name, found.hub or "by hand", found.folder, there)
        console.print(table)
    for found in chosen:
        with bar(found.name) as progress:
            files = hub.download(found, folder, progress)
        for split, path in files.items():
            rows = load_split(found, folder, split)
            counts = f"{len(rows.rows):,} rows" + ("" if rows.labelled else ", unlabelled")
            left_out = f", {rows.no_gold:,} without a gold label left out" if rows.no_gold else ""
            console.print(f"{found.name} {split}: {counts}{left_out} ({path})", soft_wrap=True)
