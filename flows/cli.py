"""The `textmill` command: each subcommand is a thin call of a flow or of the registry.

A user's mistake ends in one line and exit code 2; an interrupted run in exit code 75 (it continues
where it stopped when the same command is given again).
"""

import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import (
    cli_data,
    cli_lineage,
    cli_models,
    cli_plan,
    cli_predict,
    cli_schedules,
    cli_serve,
    cli_store,
    cli_study,
    cli_sweep,
    cli_use,
)
from flows.logs import begin
from flows.options import Preset, Setting, changed, load_preset
from flows.terminal import (
    console,
    fail,
    one_line,
    print_overlap,
    print_scores,
    print_summary,
    run_flow,
)

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


def main() -> None:
    """Run the command line; SIGTERM is Ctrl-C: what runs saves, and nobody is left behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except (ValueError, FileNotFoundError) as error:
        fail(one_line(error), 2)


@app.command()
def run(preset: Preset = "sample", settings: Setting = None) -> None:
    """Run the whole chain of a preset: corpus, pretraining, fine-tuning, evaluation, registry."""
    config = load_preset(preset, settings)
    config.check(_workspace().data)
    workspace = begin()
    from flows.reproduce import reproduce

    summary = run_flow(reproduce, config)
    print_summary(workspace, summary)


@app.command()
def corpus(
    preset: Annotated[
        str,
        typer.Argument(help="A run (sample, gpt2, ...), or webtext, openwebtext, megatron, ..."),
    ] = "sample",
    settings: Setting = None,
) -> None:
    """Make a corpus: dumps, links, pages, text, clean documents, token shards."""
    from modules.presets import RUNS, get_corpus

    config = RUNS[preset].corpus if preset in RUNS else get_corpus(preset)
    # the settings of a run's corpus may be given as for the run
    config = changed(config, [text.removeprefix("corpus.") for text in settings or []])
    config.check(_workspace().data)
    begin()
    from flows.corpus import prepare_corpus

    console.print(f"tokens: [bold]{run_flow(prepare_corpus, config)}[/bold]")


@app.command()
def nightly(
    preset: Annotated[str, typer.Argument(help="A night: webtext (fetches), sample.")] = "webtext",
    settings: Setting = None,
) -> None:
    """Get the pages of links that are new or due, and grow a corpus by their texts."""
    from modules.presets import get_night

    config = changed(get_night(preset), settings or [])
    config.check(_workspace().data)
    begin()
    from flows.nightly import nightly as flow

    console.print(f"tokens: [bold]{run_flow(flow, config)}[/bold]")


@app.command()
def overlap(
    documents: Annotated[str, typer.Argument(help="The corpus.")] = "documents/sample",
    task: Annotated[list[str] | None, typer.Option(help="Only this task (repeatable).")] = None,
) -> None:
    """Measure how much of the evaluation sets is in a corpus (GPT-2 paper, section 4)."""
    from modules import tasks
    from modules.presets import ZERO_SHOT_TASKS

    chosen = tuple(task or ZERO_SHOT_TASKS)
    for name in chosen:
        tasks.get(name)
    documents = _known(documents)
    begin()
    from flows.overlap import overlap as flow

    name = documents.removeprefix("documents/").partition("@")[0]
    print_overlap(run_flow(flow, name=name, documents=documents, task_names=chosen))


@app.command()
def memorisation(
    preset: Preset = "sample",
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(help="A model of the corpus (repeatable: other sizes of it)."),
    ] = None,
    settings: Setting = None,
) -> None:
    """Tell generalisation from memorisation: overlap, and scores without it (GPT-2, section 4)."""
    config = load_preset(preset, settings)
    name = config.name
    models = [_known(text) for text in checkpoint or [f"checkpoint/{name}"]]
    documents, tokens = _known(f"documents/{name}"), _known(f"tokens/{name}")
    begin()
    from flows.memory import memorisation as flow
    from modules.corpus.overlap import OverlapConfig

    made = run_flow(
        flow,
        zero_shot=config.zero_shot,
        overlap=OverlapConfig(tokens=config.corpus.tokens),
        name=name,
        documents=documents,
        tokens=tokens,
        checkpoints=tuple(models),
    )
    console.print(f"report: [bold]{made['fingerprint']}[/bold] (report/{name}-memorisation)")


@app.command()
def pretrain(
    preset: Preset = "sample",
    tokens: Annotated[
        str, typer.Option(help="Which tokens: kind/name, or a fingerprint; A,B are mixed.")
    ] = "",
    replay_every: Annotated[
        int | None, typer.Option(help="Compute every so many steps twice and compare all bits.")
    ] = None,
    settings: Setting = None,
) -> None:
    """Pretrain the model of a preset on token shards that are there."""
    replay = [] if replay_every is None else [f"pretrain.replay_every={replay_every}"]
    config = load_preset(preset, [*(settings or []), *replay])
    tokens = ",".join(map(_known, (tokens or f"tokens/{config.name}").split(",")))
    begin()
    from flows.pretrain import pretrain as flow

    made = run_flow(flow, config.pretrain, name=config.name, tokens=tokens)
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
    begin()
    from flows.finetune import finetune as flow

    made = run_flow(flow, asked, name=config.name, checkpoint=checkpoint)
    print_scores([row for scores in made.values() for row in scores["scores"]])


@app.command()
def evaluate(
    preset: Preset = "sample",
    task: Annotated[list[str] | None, typer.Option(help="Only this task (repeatable).")] = None,
    checkpoint: Annotated[
        str, typer.Option(help="What to score, or its folder; default: newest.")
    ] = "",
    settings: Setting = None,
) -> None:
    """Score a checkpoint without training it (GPT-2's zero-shot protocols)."""
    config = load_preset(preset, settings)
    asked = config.zero_shot.but(tasks=tuple(task)) if task else config.zero_shot
    asked.chosen()
    if not (checkpoint and Path(checkpoint).is_dir()):
        checkpoint = _known(checkpoint or f"checkpoint/{config.name}")
    begin()
    from flows.evaluate import zero_shot

    made = run_flow(zero_shot, asked, name=config.name, checkpoint=checkpoint)
    print_scores([row for scores in made.values() for row in scores["scores"]])


def _workspace() -> Any:
    from flows.settings import enter

    return enter()


def _known(reference: str) -> str:
    """Return a reference that names something, before anything is started for it."""
    from registry import artifacts

    artifacts.look_up(_workspace(), reference)
    return reference


app.add_typer(cli_data.app)
app.add_typer(cli_lineage.app)
app.add_typer(cli_models.app)
app.add_typer(cli_plan.app)
app.add_typer(cli_predict.app)
app.add_typer(cli_serve.app)
app.add_typer(cli_store.app)
app.add_typer(cli_study.app)
app.add_typer(cli_schedules.app)
app.add_typer(cli_sweep.app)
app.add_typer(cli_use.app)

if __name__ == "__main__":
    main()
