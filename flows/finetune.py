"""finetune: a checkpoint -> one tuned checkpoint per task (GPT-1 paper, sections 3.2 and 3.3)."""

from prefect import flow

from flows.cells import SIDE_BY_SIDE, Cell, Tuned, raise_if_failed, run_cells
from flows.charts import markdown_table
from flows.stage import show, stage
from flows.tuned import follow
from modules import presets
from modules.run import FinetuneRun, Use
from registry import artifacts


@flow(name="finetune", flow_run_name="finetune-{name}", task_runner=SIDE_BY_SIDE)
def finetune(
    config: FinetuneRun = presets.SAMPLE.finetune,
    name: str = "sample",
    checkpoint: str = "checkpoint/sample",
) -> Tuned:
    """Fine-tune a checkpoint on every task, side by side, each in a process of its own.

    Args:
        config: The tasks, seeds and training settings, and whether to train from scratch too.
        name: What the results are called: NAME-TASK.
        checkpoint: What to start from: kind/name for the newest, or a fingerprint.

    Returns:
        Task -> {fingerprint, scores, ...}; runs from scratch are under TASK-scratch, seeds
        after the first under TASK-s1, TASK-s2, ...

    Raises:
        ValueError: some failed; the others are done.
    """
    chosen = config.chosen()
    with stage("finetune", config.model_dump(mode="json")) as at:
        start = artifacts.checkout(at.workspace, checkpoint)
        uses: list[Use] = [config.training.use]
        uses += ["scratch"] if config.compare_scratch else []
        made = run_cells(
            at,
            [
                Cell(
                    task=task.name,
                    checkpoint=start,
                    training=config.settings_of(task.name, use, seed),
                    label=label(task.name, use, seed),
                    prefix=name,
                )
                for seed in config.seeds
                for task in chosen
                for use in uses
            ],
            data=config.folder(at.workspace.root),
        )
        show_scores(made)
        follow(at, config, name, made)
        raise_if_failed(made)
        return made


def label(task: str, use: str, seed: int) -> str:
    """Return the short name of one run among those of a flow."""
    return task + ("" if use == "auxiliary" else f"-{use}") + (f"-s{seed}" if seed else "")


def show_scores(made: Tuned) -> None:
    """Show all scores as one table."""
    rows = [
        (
            key,
            score["metric"],
            score["value"],
            f"{score['low']:.3f} to {score['high']:.3f}",
            score["n"],
        )
        for key, tuned in made.items()
        for score in tuned.get("scores", [])
    ]
    rows += [(key, "failed", x["failed"], "", "") for key, x in made.items() if "failed" in x]
    table = markdown_table(["task", "metric", "value", "95 % interval", "items"], rows)
    show("finetuning", f"# Fine-tuned\n\n{table}", "Scores of the fine-tuned checkpoints")
