"""The `textmill` command: each subcommand is a thin call of a flow or of the registry.

A user's mistake ends in one line and exit code 2; an interrupted run in exit code 75 (it continues
where it stopped when the same command is given again).
"""

import json
import logging
import logging.handlers
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

INTERRUPTED = 75  # EX_TEMPFAIL: run the same command again to continue

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="""GPT-1 and GPT-2 end to end, as one workflow platform.

    [bold]First steps[/bold]

    textmill run sample      the whole chain on the sample data, minutes on two cores\n
    textmill up              Prefect and MLflow servers, a worker, the schedules\n
    textmill generate "In the beginning"   ask the champion\n
    textmill lineage textmill-sample@champion   what it was made from, down to the dumps

    Everything a command makes is kept by fingerprint: the same inputs, settings and code are never
    computed twice, and a command that was killed continues when it is given again.""",
)
WIDE = 118  # columns where nobody's terminal says otherwise
console = Console(width=None if sys.stdout.isatty() else WIDE)
errors = Console(stderr=True, width=None if sys.stderr.isatty() else WIDE)

Setting = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Change one setting of the preset, e.g. --set corpus.clean.min_words=60 (repeatable).",
    ),
]
Preset = Annotated[
    str, typer.Argument(help="A named run: sample, tiny, gpt1, gpt2, gpt2-medium, ...")
]


def main() -> None:
    """Run the command line."""
    try:
        app()
    except KeyboardInterrupt:
        fail("interrupted; run the same command again to continue", INTERRUPTED)
    except (ValueError, FileNotFoundError) as error:
        fail(_one_line(error), 2)


def fail(message: str, code: int) -> NoReturn:
    """Print one line to stderr and exit."""
    errors.print(f"[bold red]textmill:[/bold red] {_escape(message)}", soft_wrap=True)
    if os.environ.get("TEXTMILL_DEBUG"):
        raise
    sys.exit(code)


def _one_line(error: Exception) -> str:
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"setting {where or error.title}: {first['msg']} (got {first['input']!r})"[:400]
    return " ".join(str(error).split())


def _escape(text: str) -> str:
    return text.replace("[", "\\[")


def load_preset(name: str, changes: list[str] | None) -> Any:
    """Return the run of a preset with `--set` changes applied and checked."""
    from modules.presets import get

    return changed(get(name), changes or [])


def changed(config: Any, changes: list[str]) -> Any:
    """Apply PATH=VALUE changes to a nested config.

    Raises:
        ValueError: a change is not PATH=VALUE, or names a setting that is not there.
    """
    values = config.model_dump()
    for change in changes:
        path, equals, text = change.partition("=")
        if not equals:
            raise ValueError(f"--set {change}: expected PATH=VALUE")
        target, *_ = [values]
        *parents, last = path.split(".")
        for part in parents:
            target = target.get(part) if isinstance(target, dict) else None
        if not isinstance(target, dict) or last not in target:
            raise ValueError(f"--set {change}: {type(config).__name__} has no setting {path!r}")
        try:
            target[last] = json.loads(text)
        except ValueError:
            target[last] = text
    return type(config).model_validate(values)


@app.command()
def run(preset: Preset = "sample", settings: Setting = None) -> None:
    """Run the whole chain of a preset: corpus, pretraining, fine-tuning, evaluation, registry."""
    config = load_preset(preset, settings)
    config.check(_workspace().data)
    workspace = _begin()
    from flows.reproduce import reproduce

    summary = _flow(reproduce, config)
    _print_summary(workspace, summary)


@app.command()
def corpus(preset: Preset = "sample", settings: Setting = None) -> None:
    """Make the corpus of a preset: dumps, links, pages, text, clean documents, token shards."""
    config = load_preset(preset, settings)
    for what in ("dumps", "warcs", "extra"):
        config.corpus.paths(_workspace().data, what)
    _begin()
    from flows.corpus import prepare_corpus

    console.print(f"tokens: [bold]{_flow(prepare_corpus, config.corpus)}[/bold]")


@app.command()
def pretrain(
    preset: Preset = "sample",
    tokens: Annotated[str, typer.Option(help="Which tokens: kind/name, or a fingerprint.")] = "",
    settings: Setting = None,
) -> None:
    """Pretrain the model of a preset on token shards that are there."""
    config = load_preset(preset, settings)
    tokens = _known(tokens or f"tokens/{config.name}")
    _begin()
    from flows.pretrain import pretrain as flow

    made = _flow(flow, config.pretrain, name=config.name, tokens=tokens)
    console.print(f"checkpoint: [bold]{made}[/bold]")


@app.command()
def finetune(
    preset: Preset = "sample",
    task: Annotated[list[str] | None, typer.Option(help="Only this task (repeatable).")] = None,
    checkpoint: Annotated[str, typer.Option(help="What to start from; default: newest.")] = "",
    settings: Setting = None,
) -> None:
    """Fine-tune a checkpoint on each task of a preset (GPT-1's input formats)."""
    config = load_preset(preset, settings)
    asked = config.finetune.but(tasks=tuple(task)) if task else config.finetune
    asked.chosen()
    checkpoint = _known(checkpoint or f"checkpoint/{config.name}")
    _begin()
    from flows.finetune import finetune as flow

    made = _flow(flow, asked, name=config.name, checkpoint=checkpoint)
    _print_scores([row for scores in made.values() for row in scores["scores"]])


@app.command()
def evaluate(
    preset: Preset = "sample",
    task: Annotated[list[str] | None, typer.Option(help="Only this task (repeatable).")] = None,
    checkpoint: Annotated[str, typer.Option(help="What to score; default: newest.")] = "",
    settings: Setting = None,
) -> None:
    """Score a checkpoint without training it (GPT-2's zero-shot protocols)."""
    config = load_preset(preset, settings)
    asked = config.zero_shot.but(tasks=tuple(task)) if task else config.zero_shot
    asked.chosen()
    checkpoint = _known(checkpoint or f"checkpoint/{config.name}")
    _begin()
    from flows.evaluate import zero_shot

    made = _flow(zero_shot, asked, name=config.name, checkpoint=checkpoint)
    _print_scores([row for scores in made.values() for row in scores["scores"]])


@app.command()
def promote(
    name: Annotated[str, typer.Argument(help="The model, e.g. textmill-sample.")],
    checkpoint: Annotated[str, typer.Option(help="What to register; default: newest.")] = "",
    force: Annotated[bool, typer.Option(help="Promote even if its scores are not better.")] = False,
) -> None:
    """Register a checkpoint under a model's name; make it champion if its scores say so."""
    checkpoint = _known(checkpoint or f"checkpoint/{name.removeprefix('textmill-')}")
    _begin()
    from flows.promote import promote as flow

    made = _flow(flow, name, checkpoint=checkpoint, force=force)
    console.print(made["decision"])


@app.command()
def study(
    preset: Preset = "sample",
    seeds: Annotated[int, typer.Option(help="Fine-tuning seeds per task and start.")] = 3,
    settings: Setting = None,
) -> None:
    """Compare pretrained with from-scratch on every task of a preset, over several seeds."""
    config = load_preset(preset, settings)
    _known(f"checkpoint/{config.name}")
    _begin()
    from flows.study import study as flow

    summary = _flow(flow, config.finetune, name=config.name, seeds=seeds)
    console.print(_plain(summary["markdown"]))


@app.command()
def up(
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect server and UI.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow server and UI.")] = 5000,
) -> None:
    """Start the Prefect server, the MLflow server and a worker that serves every deployment."""
    from flows.services import up as start
    from flows.settings import enter

    workspace = enter()
    try:
        start(
            workspace, prefect_port, mlflow_port, say=lambda text: console.print(text, style="bold")
        )
    except RuntimeError as error:
        fail(str(error), 1)


@app.command()
def status() -> None:
    """Show what is running, what was interrupted, and where the UIs are."""
    from flows.settings import enter, running_services
    from registry import catalogue
    from registry.db import reading
    from registry.tables import Status

    workspace = enter()
    services = running_services(workspace)
    if services:
        console.print(
            f"up (pid {services['pid']}): "
            f"Prefect {services['prefect']}, MLflow {services['mlflow']}"
        )
    else:
        console.print("servers: not running (start them with `textmill up`)")
    table = Table("started", "stage", "state", "took", "what to do", title="Newest runs")
    with reading(workspace.database_url) as session:
        dead = {run.id for run in catalogue.interrupted_runs(session)}
        for run in catalogue.list_runs(session, limit=15):
            gone = run.id in dead or run.status == Status.INTERRUPTED
            end = f"{(run.ended - run.started).total_seconds():.0f} s" if run.ended else ""
            table.add_row(
                f"{run.started:%Y-%m-%d %H:%M:%S}",
                run.stage if run.name == run.stage else f"{run.stage} {run.name}",
                "interrupted" if gone else str(run.status),
                end,
                "run the same command again to continue" if gone else run.detail[:60],
            )
    console.print(table)


@app.command()
def doctor() -> None:
    """Check versions, disk, ports, data and remotes; say how to mend what is wrong."""
    from flows.doctor import examine

    table = Table("", "check", "found", "mend")
    wrong = 0
    for check in examine():
        wrong += not check.good
        table.add_row(
            "[green]ok[/green]" if check.good else "[red]!![/red]",
            check.name,
            check.found,
            check.mend,
        )
    console.print(table)
    if wrong:
        sys.exit(1)


@app.command()
def models() -> None:
    """List the registered models, their versions, scores and aliases."""
    from flows.settings import enter
    from registry import models as registered

    table = Table("model", "version", "alias", "checkpoint", "made", "scores")
    for row in registered.list_models(enter()):
        scores = [f"{k[6:]} {v}" for k, v in row["tags"].items() if k.startswith("score.")]
        table.add_row(
            row["name"],
            str(row["version"]),
            ", ".join(row["aliases"]),
            row["artifact"],
            f"{row['created']:%Y-%m-%d %H:%M}",
            "\n".join(x for x in scores if "bits_per_byte" in x or "accuracy" in x),
        )
    console.print(table)


@app.command()
def lineage(
    reference: Annotated[
        str, typer.Argument(help="textmill-sample@champion, kind/name, fingerprint.")
    ],
) -> None:
    """Show what an artifact or model was made from, down to the input files."""
    from flows.lineage import tree
    from flows.settings import enter

    console.print(tree(enter(), reference))


@app.command()
def checkout(
    reference: Annotated[
        str, typer.Argument(help="textmill-sample@champion, kind/name, fingerprint.")
    ],
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
) -> None:
    """Continue a text with a model from the registry."""
    from flows.settings import enter
    from registry import artifacts

    folder = artifacts.checkout(enter(), model).path
    from modules.model.checkpoint import load
    from modules.model.generate import GenerationConfig
    from modules.model.generate import generate as sample
    from modules.tokenizer import load as load_tokenizer

    tokenizer = load_tokenizer(folder / "tokenizer")
    config = GenerationConfig(
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    )
    ids = sample(load(folder), [tokenizer.encode(prompt)], config, eot=tokenizer.eot)[0]
    typer.echo(prompt + tokenizer.decode(ids))


def _flow(flow: Any, *arguments: Any, **named: Any) -> Any:
    """Run a flow in this process."""
    from prefect.exceptions import TerminationSignal

    from flows.stage import Interrupted

    try:
        return flow(*arguments, **named)
    except TerminationSignal:
        fail("stopped by a signal; run the same command again to continue", INTERRUPTED)
    except Interrupted as error:
        fail(str(error), INTERRUPTED)


def _workspace() -> Any:
    from flows.settings import enter

    return enter()


def _known(reference: str) -> str:
    """Return a reference that names something, before anything is started for it."""
    from registry import artifacts

    artifacts.look_up(_workspace(), reference)
    return reference


def _begin() -> Any:
    """Open the workspace and say on the terminal what happens; the whole log goes into a file.

    Prefect's own lines are in its UI and in that file, where tracebacks are, too.
    """
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    from flows.services import stop_orphans
    from flows.settings import RUN_PID, enter

    workspace = enter()
    stop_orphans(workspace)
    os.environ[RUN_PID] = str(os.getpid())
    logs = workspace.state / "logs"
    logs.mkdir(exist_ok=True)
    whole = logging.handlers.RotatingFileHandler(
        logs / "textmill.log", maxBytes=2**22, backupCount=2
    )
    whole.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    shown = RichHandler(console=errors, show_path=False, show_level=False, markup=False)
    shown.setFormatter(logging.Formatter("%(message)s", datefmt="[%X]"))
    for name in ("flows", "modules", "registry"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.handlers = [shown, whole]
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    errors.print("Starting; without `textmill up` a temporary Prefect server needs a moment.")
    import prefect.main  # noqa: F401  configures logging, once

    logging.getLogger("prefect").addHandler(whole)
    return workspace


def _plain(markdown: str) -> Any:
    from rich.markdown import Markdown

    return Markdown(markdown)


def _print_scores(rows: list[dict[str, Any]]) -> None:
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


def _print_summary(workspace: Any, summary: dict[str, Any]) -> None:
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


if __name__ == "__main__":
    main()
