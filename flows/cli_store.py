"""The commands that move artifacts between machines and clear up: push, pull, gc, pin."""

from collections.abc import Iterable
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from flows.amounts import amount
from flows.terminal import bar, console, fail

app = typer.Typer()
What = Annotated[
    list[str] | None,
    typer.Argument(help="Models (name@champion, name/3) and artifacts (kind/name, fingerprint)."),
]


@app.command()
def push(
    what: What = None,
    verify: Annotated[bool, typer.Option(help="Only look and name what is bad.")] = False,
    force: Annotated[
        bool, typer.Option(help="Move aliases that somebody else moved at the storage.")
    ] = False,
) -> None:
    """Prove artifacts at the storage, object by object, and mend what is bad or missing there.

    With all that they were made from; without names, everything. Afterwards any machine that
    reaches the storage can `textmill pull` it by name, with nothing but the storage's address.
    """
    from flows.settings import enter
    from registry import exchange

    workspace = enter()
    with bar("storage") as progress:
        if verify:
            done = list(exchange.damage(workspace, what or (), progress=progress))
        else:
            done = list(exchange.push(workspace, what or (), force=force, progress=progress))
    _print_moved("At the storage", done)
    bad = [moved for moved in done if moved.error]
    if bad and verify:
        fail(f"{len(bad)} of {len(done)} are damaged there; mend them: textmill push", 1)
    if bad:
        fail(f"{len(bad)} of {len(done)} are LOCAL ONLY or as they were; see above", 1)


@app.command()
def pull(
    what: What = None,
    inputs: Annotated[
        bool, typer.Option("--inputs", help="Bring the bytes of what they were made from, too.")
    ] = False,
) -> None:
    """Bring models and artifacts here, verified, with their lineage, scores and versions.

    The catalogue here may be empty: only the storage's address is needed, once:
    `dvc remote add --local storage ADDRESS`. Without names: what stands under every alias there.
    """
    from flows.settings import enter
    from registry import exchange

    with bar("storage") as progress:
        done = list(exchange.pull(enter(), what or (), inputs=inputs, progress=progress))
    _print_moved("Here", done)
    if bad := [moved for moved in done if moved.error]:
        fail(f"{bad[0].what}: {bad[0].error}", 1)


def _print_moved(title: str, done: Iterable[Any]) -> None:
    """Print what became of each thing."""
    table = Table("what", "files", "size", "state", title=title, title_justify="left")
    for moved in done:
        state = f"[red]{escape(moved.error)}[/red]" if moved.error else escape(moved.done)
        size = amount(moved.size, "B") if moved.n_files else ""
        table.add_row(moved.what, f"{moved.n_files:,}" if moved.n_files else "", size, state)
    console.print(table)
