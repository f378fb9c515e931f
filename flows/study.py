"""study: runs that make one table of a paper: pretrained against scratch (GPT-1, Table 5)."""

from statistics import mean, stdev
from typing import Any

from prefect import flow

from flows.cells import Tuned
from flows.charts import bars, inline, markdown_table
from flows.finetune import finetune, label
from flows.stage import show, stage
from modules import presets
from modules.run import FinetuneRun


@flow(name="study", flow_run_name="study-{name}")
def study(
    config: FinetuneRun = presets.SAMPLE.finetune,
    name: str = "sample",
    checkpoint: str = "",
    seeds: int = 3,
) -> dict[str, Any]:
    """Fine-tune from the checkpoint and from scratch on every task, over several seeds.

    Runs that were made before (the demo's first seed) are used again.

    Args:
        config: Tasks and training settings; its seeds are replaced by 0 .. seeds - 1.
        name: The preset whose checkpoint is compared.
        checkpoint: What to start from; empty: the newest checkpoint of that name.
        seeds: How many seeds.

    Returns:
        {rows, mean_difference, markdown}.
    """
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; a study needs at least 1")
    with stage("study", config.model_dump(mode="json") | {"seeds": seeds}):
        everything = config.but(seeds=tuple(range(seeds)), compare_scratch=True)
        tuned = finetune(everything, name=name, checkpoint=checkpoint or f"checkpoint/{name}")
        rows = [compare(task, tuned, seeds) for task in config.tasks]
        difference = mean(row["difference"] for row in rows)
        text = table_of(rows, difference, seeds)
        picture = bars({row["task"]: row["difference"] for row in rows}, "pretrained - scratch")
        show("study", f"{text}\n\n{inline(picture, 'difference')}", "Pretrained against scratch")
        return {"rows": rows, "mean_difference": difference, "markdown": text}


def compare(task: str, tuned: Tuned, seeds: int) -> dict[str, Any]:
    """Return a task's mean accuracy with and without pretraining."""

    def accuracies(use: str) -> list[float]:
        found = (tuned[label(task, use, seed)]["scores"] for seed in range(seeds))
        return [next(s["value"] for s in scores if s["split"] == "test") for scores in found]

    ours, scratch = accuracies("auxiliary"), accuracies("scratch")
    return {
        "task": task,
        "pretrained": mean(ours),
        "pretrained_sd": stdev(ours) if seeds > 1 else 0.0,
        "scratch": mean(scratch),
        "scratch_sd": stdev(scratch) if seeds > 1 else 0.0,
        "difference": mean(ours) - mean(scratch),
    }


def table_of(rows: list[dict[str, Any]], difference: float, seeds: int) -> str:
    """Return the study's table as Markdown."""
    table = markdown_table(
        ["task", "from scratch", "pretrained", "difference"],
        [
            (
                row["task"],
                f"{row['scratch']:.3f} (sd {row['scratch_sd']:.3f})",
                f"{row['pretrained']:.3f} (sd {row['pretrained_sd']:.3f})",
                f"{row['difference']:+.3f}",
            )
            for row in rows
        ],
    )
    return (
        f"# Pretrained against scratch, {seeds} seeds\n\nTest accuracy.\n\n{table}\n\n"
        f"Mean difference over the tasks: **{difference:+.3f}**"
    )
