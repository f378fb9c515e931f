"""The commands that show and use what is there; flows/cli.py adds them to `textmill`."""

import shlex
import sys
from itertools import chain
from typing import Annotated

import typer

from flows.terminal import (
    console,
    fail,
    print_checks,
    print_ledger,
    print_runs,
)

app = typer.Typer()
Reference = Annotated[str, typer.Argument(help="textmill-sample@champion, kind/name, fingerprint.")]


@app.command()
def up(
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect server and UI.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow server and UI.")] = 5000,
    host: Annotated[str, typer.Option(help="Where to listen; only this machine by default.")] = (
        "127.0.0.1"
    ),
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name the servers are reached by (repeatable)."),
    ] = None,
) -> None:
    """Start the Prefect server, the MLflow server and a worker that serves every deployment."""
    from flows.services import Addresses
    from flows.services import up as start
    from flows.settings import enter

    at = Addresses(prefect_port, mlflow_port, host, tuple(allow_host or ()))
    try:
        start(enter(), at, say=lambda text: console.print(text, style="bold"))
    except RuntimeError as error:
        fail(str(error), 1)


@app.command()
def worker(
    prefect: Annotated[str, typer.Option(metavar="URL", help="Prefect's API, .../api.")],
    mlflow: Annotated[str, typer.Option(metavar="URL", help="The MLflow server.")],
    pool: Annotated[str, typer.Option(help="The work pool it serves.")] = "local",
) -> None:
    """Serve the deployments of servers that run elsewhere, with this project's folder."""
    from flows.settings import enter
    from flows.worker import work

    try:
        work(enter(), prefect, mlflow, pool, say=console.print)
    except RuntimeError as error:
        fail(str(error), 1)


@app.command()
def env() -> None:
    """Print the addresses and credentials of the running servers, for `eval "$(textmill env)"`."""
    from flows.settings import client_settings, enter, running_services

    workspace = enter()
    services = running_services(workspace)
    if services is None:
        fail("no servers are running (start them with `textmill up`)", 1)
    tracking = {"MLFLOW_TRACKING_URI": services["mlflow"]}
    for name, value in (client_settings(workspace, services) | tracking).items():
        print(f"export {name}={shlex.quote(value)}")  # console.print would wrap it


@app.command()
def status() -> None:
    """Show what is running, what was interrupted, and where the UIs are."""
    from flows.consistency import late_check
    from flows.settings import enter, running_services
    from registry import runs
    from registry.access import secret_file
    from registry.db import reading

    workspace = enter()
    services = running_services(workspace)
    if services:
        console.print(
            f"up (pid {services['pid']}): "
            f"Prefect {services['prefect']}, MLflow {services['mlflow']}; "
            f"log in with the text of {secret_file(workspace)}"
        )
        late = late_check(workspace)
        if not late.good:
            console.print(f"[yellow]late runs: {late.found}[/yellow]; {late.mend}")
    else:
        console.print("servers: not running (start them with `textmill up`)")
    with reading(workspace.database_url) as session:
        dead = {run.id for run in runs.interrupted_runs(session)}
        print_runs(runs.list_runs(session, limit=15), dead)


@app.command()
def doctor(
    fix: Annotated[
        bool, typer.Option("--fix", help="Mend what can be mended: the catalogue decides.")
    ] = False,
) -> None:
    """Check versions, disk, data, remotes, and whether all stores agree; say how to mend them."""
    from flows.doctor import examine

    if not print_checks(examine(fix=fix)):
        sys.exit(1)


@app.command()
def why(
    address: Annotated[str, typer.Argument(help="An address, or the id of a document.")],
    corpus: Annotated[
        str, typer.Option(help="Which corpus: a name or a fingerprint; default: the newest.")
    ] = "",
) -> None:
    """Tell the story of one address: in which dumps, which page, kept or dropped, and why."""
    from flows.settings import enter
    from flows.why import why as story

    console.print(story(enter(), address, corpus=corpus))


@app.command()
def ledger() -> None:
    """Show how many links the crawl ledger holds, and where they stand."""
    from flows.settings import enter
    from registry.ledger import summary

    print_ledger(summary(enter().database_url))


@app.command()
def checkout(
    reference: Reference,
) -> None:
    """Get an artifact's bytes, verified, from here or from the storage remote; print the folder."""
    from flows.settings import enter
    from registry import artifacts

    found = artifacts.checkout(enter(), reference)
    console.print(f"{found.kind} {found.name} {found.fingerprint[:12]}", style="bold")
    typer.echo(str(found.path))


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The text to continue.")],
    model: Annotated[
        str, typer.Option(help="Which model or checkpoint.")
    ] = "textmill-sample@champion",
    max_new_tokens: Annotated[int, typer.Option(help="Length of the continuation.")] = 100,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Sample from the k likeliest tokens; 0: all.")] = 40,
    top_p: Annotated[float, typer.Option(help="Sample from this much probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Same seed, same text.")] = 0,
    beams: Annotated[int, typer.Option(help="Search with so many; needs --temperature 0.")] = 1,
) -> None:
    """Continue a text with a model from the registry, word by word as it is made."""
    from flows.settings import enter
    from registry import artifacts

    folder = artifacts.checkout(enter(), model).path
    from modules.model.checkpoint import load
    from modules.model.generate import GenerationConfig, pieces, stream
    from modules.tokenizer import load as load_tokenizer

    tokenizer = load_tokenizer(folder / "tokenizer")
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k or None,
        top_p=top_p,
        seed=seed,
        num_beams=beams,
    )
    new = stream(load(folder), tokenizer.encode(prompt), config, eot=tokenizer.eot)
    for text in chain([prompt], pieces(new, tokenizer), ["\n"]):
        typer.echo(text, nl=False)  # and flush
