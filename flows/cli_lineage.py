"""The commands that ask what was made from what; flows/cli.py adds them to `textmill`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from flows.terminal import console, escape

app = typer.Typer()
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON: all hashes, configs, runs.")]


@app.command()
def lineage(
    reference: Annotated[
        str, typer.Argument(help="textmill-sample@champion, kind/name, fingerprint.")
    ],
    picture: Annotated[
        Path | None, typer.Option(help="Draw it: a file that ends with .svg, .png or .html.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what an artifact or model was made from, down to the input files."""
    from flows import lineage as asked
    from flows.settings import enter, running_services

    workspace = enter()
    found = asked.read(workspace, reference)
    if as_json:
        _print_json(asked.as_json(found, reference, running_services(workspace)))
    elif not picture:
        console.print(asked.tree_of(found, reference))
    if picture:
        from flows.lineage_picture import save

        save(found, f"Lineage of {reference}", picture)
        typer.echo(f"wrote {picture}", err=as_json)


@app.command()
def uses(
    what: Annotated[
        str,
        typer.Argument(help="A page's address, an input file (path, name, sha256), an artifact."),
    ],
    as_json: AsJson = False,
) -> None:
    """Show which artifacts and models were made from a page, an input file or an artifact."""
    from flows import uses as asked
    from flows.settings import enter

    found = asked.uses(enter(), what)
    if as_json:
        _print_json(asked.as_json(found))
        return
    for line in _told(found):
        console.print(line, highlight=False)
    if found.progeny.models:
        console.print(_models(found.progeny.models))
    else:
        console.print("no registered model was made from it")


@app.command()
def reproduce(
    what: Annotated[
        str, typer.Argument(help="A run's id (textmill lineage shows it), or an artifact or model.")
    ],
) -> None:
    """Make it again from its recorded settings and inputs, and compare every byte."""
    from flows.settings import enter

    workspace = enter()
    from flows.remake import reproduce as again

    differ = 0
    for made in again(workspace, what):
        differ += not made.equal
        _print_comparison(made)
    if differ:
        raise typer.Exit(1)


def _print_comparison(made: Any) -> None:
    """Print whether an artifact came out as it was, and what may explain a difference."""
    if made.equal:
        console.print(f"[green]equal[/green] {made.reference}: {len(made.same)} files")
        return
    if made.refused:
        console.print(f"[red]not made[/red] {escape(made.refused)}")
        return
    n = len(made.same) + len(made.differing)
    console.print(f"[red]differs[/red] {made.reference}: {len(made.same)} of {n} files are equal")
    for name, how in made.differing.items():
        console.print(f"  {escape(name)}: {how}", highlight=False)
    for name, change in made.circumstances.items():
        console.print(f"  [dim]{name}: {escape(change)}[/dim]", highlight=False)
    if not made.circumstances:
        console.print("  [dim]code, data and libraries are as then: look at threads, CPU[/dim]")
    console.print(f"  kept in {made.folder}", highlight=False)


def _told(found: Any) -> list[str]:
    """Return what is said above the table of models."""
    lines = [f"[bold]{escape(found.what)}[/bold]"]
    lines += [f"file {escape(x.path)}, sha256 {x.sha256[:12]}" for x in found.files]
    for corpus in found.corpora:
        mark = "[green]✓[/green]" if corpus.holds else "[red]✗[/red]"
        name = f"corpus {escape(corpus.name)} {corpus.tokens[:12]}"
        lines.append(f"{mark} {name}: {escape(corpus.end)}")
    if found.starts:
        lines.append(f"went into {', '.join(found.starts[:5])}{_more(found.starts[5:])}")
    counts = [f"{n:,} {kind}" for kind, n in found.progeny.counts.items()]
    return [*lines, *([f"all that holds it: {', '.join(counts)}"] if counts else [])]


def _more(rest: list[str]) -> str:
    return f" and {len(rest):,} more" if rest else ""


def _models(models: list[Any]) -> Table:
    """Return the models as a table."""
    table = Table("model", "version", "alias", "checkpoint")
    for model, aliases in models:
        held = model.artifact.fingerprint[:12]
        table.add_row(model.name, str(model.version), ", ".join(aliases), held)
    return table


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))
