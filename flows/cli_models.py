"""The commands of the model registry: `textmill models`, `promote` and `rollback`."""

import json
from typing import Annotated, Any

import typer

from flows.logs import begin
from flows.terminal import console, print_history, print_models, run_flow

app = typer.Typer()
Name = Annotated[str, typer.Argument(help="The model, e.g. textmill-sample.")]


@app.command()
def models(
    name: Annotated[str, typer.Argument(help="Only this model.")] = "",
    history: Annotated[
        bool, typer.Option("--history", help="Who moved its aliases: when, why, from, to, scores.")
    ] = False,
    card: Annotated[
        int | None, typer.Option(help="Print the card of this version, as Markdown.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, nothing shortened.")] = False,
) -> None:
    """List the models: newest versions and aliases; of one model all versions, or its history."""
    from flows.settings import enter
    from registry import models as registered

    workspace = enter()
    if (history or card is not None) and not name:
        raise ValueError("whose? Give the model: textmill models NAME --history")
    if card is not None:
        from registry.card import write

        typer.echo(write(workspace, name, card))
        return
    rows = registered.list_models(workspace, name or None, current=not name)
    if name and not rows:
        raise ValueError(f"no model {name}; `textmill models` lists them")
    if history:
        moves = registered.history(workspace, name, alias=None)
        if as_json:
            typer.echo(json.dumps([told(move) for move in moves]))
        else:
            print_history(moves)
    elif as_json:
        typer.echo(json.dumps(rows, default=str))
    else:
        print_models(rows, most=1000 if name else 3)


def told(move: Any) -> dict[str, Any]:
    """Return a move of an alias as JSON values."""
    return {
        "when": move.created.isoformat(),
        "who": move.who,
        "alias": move.alias,
        "from": move.previous,
        "to": move.version,
        "why": move.reason,
        "scores": move.scores,
    }


@app.command()
def promote(
    name: Name,
    checkpoint: Annotated[str, typer.Option(help="What to register; default: newest.")] = "",
    force: Annotated[bool, typer.Option(help="Promote even if its scores are not better.")] = False,
    decides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Only these tasks decide (repeatable); default: all in common."),
    ] = None,
    policy: Annotated[
        str, typer.Option(help="no set worse, significant (by more than chance), or mean.")
    ] = "no set worse",
) -> None:
    """Register a checkpoint under a model's name; make it champion if its scores say so."""
    from flows.settings import enter
    from modules import tasks
    from modules.evaluation.promotion import GuardConfig
    from registry import artifacts

    guard = GuardConfig(sets=tuple(decides or ()), policy=policy)
    for task in guard.sets:
        tasks.get(task)
    checkpoint = checkpoint or f"checkpoint/{name.removeprefix('textmill-')}"
    artifacts.look_up(enter(), checkpoint)
    begin()
    from flows.promote import promote as flow

    made = run_flow(flow, name, checkpoint=checkpoint, force=force, guard=guard)
    console.print(made["decision"])


@app.command()
def rollback(
    name: Name,
    to: Annotated[
        int | None, typer.Option(help="Which version; default: the champion before this one.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, for the history.")] = "by hand",
) -> None:
    """Give a model's champion alias back to an earlier version."""
    from flows.settings import enter
    from registry import models as registered

    workspace = enter()
    before = registered.holder(workspace, name)
    now = registered.rollback(workspace, name, reason=reason, to=to)
    console.print(f"{name}: version {now} is the champion again, not {before}")
