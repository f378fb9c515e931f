"""The commands that move artifacts and clear up: push, pull, import, export, gc, pin."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
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


@app.command()
def export(
    what: Annotated[str, typer.Argument(help="textmill-sample@champion, kind/name, or a folder.")],
    folder: Annotated[Path, typer.Argument(help="A new folder for transformers' files.")],
) -> None:
    """Write a GPT as transformers loads it: weights, config, tokenizer, generation, README."""
    from flows.public_weights import export as write
    from flows.settings import enter

    counts = write(enter(), what, folder)
    console.print(f"{folder}: {counts['tensors']} tensors, {counts['parameters']:,} parameters")


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(help="Hugging Face's files, or OpenAI's release.")],
    name: Annotated[str, typer.Option(help="What the checkpoint will be called.")],
) -> None:
    """Make public weights a checkpoint here: gpt2 or openai-gpt, safetensors or OpenAI's own files.

    What is in the files decides, not their names; nothing pickled is ever opened. Then it is like
    any other: `textmill evaluate --checkpoint checkpoint/NAME`, finetune, promote, generate.
    """
    from flows.public_weights import import_weights
    from flows.settings import enter

    made = import_weights(enter(), folder, name)
    table = Table("checkpoint", "tensors", "parameters", "vocabulary")
    counts = made.counts
    told = (f"{counts['tensors']:,}", f"{counts['parameters']:,}", counts["tokenizer"])
    table.add_row(made.reference, *told)
    console.print(table)


def _print_moved(title: str, done: Iterable[Any]) -> None:
    """Print what became of each thing."""
    table = Table("what", "files", "size", "state", title=title, title_justify="left")
    for moved in done:
        state = f"[red]{escape(moved.error)}[/red]" if moved.error else escape(moved.done)
        size = amount(moved.size, "B") if moved.n_files else ""
        table.add_row(moved.what, f"{moved.n_files:,}" if moved.n_files else "", size, state)
    console.print(table)


@app.command()
def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only show it.")] = False,
    artifacts: Annotated[bool, typer.Option(help="Folders in artifacts/.")] = True,
    cache: Annotated[bool, typer.Option(help="Objects in the local DVC cache.")] = True,
    storage: Annotated[
        bool, typer.Option(help="The storage, too: those artifacts are gone for good.")
    ] = False,
) -> None:
    """Show, and with --yes remove, what nothing needs: old artifacts, and what killed runs left.

    Kept are registered versions, pinned artifacts, the newest of each name, and all that those were
    made from. Copies here go only if every object is proved at the storage. What went from the
    storage stays known: its lineage and scores, and how to make it again.
    """
    from flows.settings import enter
    from registry import gc as collector

    workspace = enter()
    places = collector.Places(folders=artifacts, cache=cache, storage=storage)
    if yes:
        with bar("clearing up") as progress:
            _print_gone("Removed", list(collector.collect(workspace, places, progress)))
        return
    items, stays = collector.survey(workspace, places)
    _print_gone("Would go", items)
    reasons = Counter(why.split(" ")[0] for why in stays.values())
    counts = {
        "registered versions": reasons["version"],
        "pinned": reasons["pinned:"],
        "the newest of their name": reasons["the"],
    }
    told = ", ".join(f"{n:,} {what}" for what, n in counts.items() if n)
    others = len(stays) - sum(counts.values())
    console.print(f"{len(stays):,} artifacts stay: {told}, {others:,} that those were made from.")
    if items:
        console.print("Nothing was removed. Do it: the same command with [bold]--yes[/bold]")


@app.command()
def pin(
    what: Annotated[str, typer.Argument(help="An artifact or a model.")],
    reason: Annotated[str, typer.Option(help="Why it must stay.")] = "by hand",
    remove: Annotated[bool, typer.Option("--remove", help="Let it go again.")] = False,
) -> None:
    """Keep an artifact, and all it was made from, from `textmill gc`."""
    from flows.settings import enter
    from registry import gc as collector

    done = collector.pin(enter(), what, None if remove else reason)
    console.print(f"{done} is {'no longer pinned' if remove else f'pinned: {escape(reason)}'}")


def _print_gone(title: str, items: Sequence[Any]) -> None:
    """Print what goes, its size and why."""
    if not items:
        console.print("Nothing to clear up.")
        return
    table = Table("where", "what", "size", "why", title=title, title_justify="left")
    for item in items:
        table.add_row(item.place, escape(item.what), amount(item.size, "B"), escape(item.why))
    table.add_section()
    table.add_row("", f"{len(items):,}", amount(sum(item.size for item in items), "B"), "")
    console.print(table)
