"""sweep: learning rates of fine-tuning, tried side by side; the validation rows choose."""

import json
from pathlib import Path
from typing import Any

from prefect import flow

from flows.cells import SIDE_BY_SIDE, Cell, Tuned, raise_if_failed, run_cells
from flows.charts import markdown_table
from flows.stage import Stage, show, stage
from modules import presets
from modules.run import FinetuneRun
from modules.training.sweep import SweepConfig, best, metric_of, trials
from registry import artifacts


@flow(name="sweep", flow_run_name="sweep-{name}", task_runner=SIDE_BY_SIDE)
def sweep(
    config: FinetuneRun = presets.SAMPLE.finetune,
    tried: SweepConfig = SweepConfig(),  # noqa: B008  frozen
    name: str = "sample",
    checkpoint: str = "checkpoint/sample",
) -> dict[str, Any]:
    """Fine-tune on each task with every learning rate; keep the best on its validation rows.

    Trials that are there already are not trained again.

    Args:
        config: The tasks and training settings; of its seeds the first is used.
        tried: The learning rates, lengths, and when a trial is given up.
        name: What the results are called: NAME-TASK-lrRATE.
        checkpoint: What to start from: kind/name for the newest, or a fingerprint.

    Returns:
        {chosen: task -> {trial, lr, epochs, fingerprint, scores}, rows, markdown}.

    Raises:
        ValueError: trials failed; the others are done, and shown.
    """
    chosen = config.chosen()
    with stage("sweep", config.model_dump(mode="json") | tried.model_dump(mode="json")) as at:
        start = artifacts.checkout(at.workspace, checkpoint)
        cells = {
            (task.name, trial): Cell(
                task=task.name,
                checkpoint=start,
                training=training,
                label=f"{task.name}-{trial}",
                prefix=name,
            )
            for task in chosen
            for trial, training in trials(
                config.settings_of(task.name, config.training.use, config.seeds[0]), tried
            ).items()
        }
        made = run_cells(at, list(cells.values()), data=config.folder(at.workspace.root))
        by_loss = config.training.select == "loss"
        if all("failed" in cell for cell in made.values()):
            raise_if_failed(made)
        results = [decide(at, task.name, cells, made, by_loss=by_loss) for task in chosen]
        rows = [row for result in results for row in result["rows"]]
        text = table_of(rows)
        show("sweep", text, "Learning rates of fine-tuning, by validation")
        raise_if_failed(made)
        found = {result["task"]: result["chosen"] for result in results}
        return {"chosen": found, "rows": rows, "markdown": text}


def decide(
    at: Stage, task: str, cells: dict[tuple[str, str], Cell], made: Tuned, *, by_loss: bool
) -> dict[str, Any]:
    """Return a task's table rows and its best trial."""
    own = {trial: cell for (name, trial), cell in cells.items() if name == task}
    ends = {trial: made[cell.label] for trial, cell in own.items()}
    facts = {
        trial: facts_of(artifacts.checkout(at.workspace, end["fingerprint"]).path)
        for trial, end in ends.items()
        if "failed" not in end
    }
    winner = best({trial: fact["best"] for trial, fact in facts.items()}, by_loss=by_loss)
    rows = [
        {
            "task": task,
            "trial": trial,
            "lr": cell.training.optim.lr,
            "epochs": cell.training.epochs,
            **validation_of(facts.get(trial)),
            "chosen": trial == winner,
        }
        for trial, cell in own.items()
    ]
    training = own[winner].training
    end = {key: ends[winner][key] for key in ("fingerprint", "scores")}
    chosen = {"trial": winner, "lr": training.optim.lr, "epochs": training.epochs, **end}
    return {"task": task, "rows": rows, "chosen": chosen}


def facts_of(tuned: Path) -> dict[str, Any]:
    """Return what training.json of a tuned/ directory says."""
    facts: dict[str, Any] = json.loads((tuned / "training.json").read_text())
    return facts


def validation_of(facts: dict[str, Any] | None) -> dict[str, Any]:
    """Return what a trial's table row says of its validation; nothing for one that failed."""
    if facts is None:
        return {"metric": None, "val_loss": None, "steps": None}
    found = facts["best"]
    return {"metric": metric_of(found), "val_loss": found["val_loss"], "steps": facts["steps"]}


def table_of(rows: list[dict[str, Any]]) -> str:
    """Return the trials as Markdown; the chosen ones in bold."""

    def cell(row: dict[str, Any], key: str, form: str) -> str:
        text = "failed" if row[key] is None else format(row[key], form)
        return f"**{text}**" if row["chosen"] else text

    table = markdown_table(
        ["task", "rate", "epochs", "updates", "validation metric", "validation loss"],
        [
            (
                row["task"],
                cell(row, "lr", "g"),
                cell(row, "epochs", "d"),
                cell(row, "steps", "d"),
                cell(row, "metric", ".3f"),
                cell(row, "val_loss", ".4f"),
            )
            for row in rows
        ],
    )
    return (
        f"# Learning rates\n\nChosen on the validation rows (bold), never on the test.\n\n{table}"
    )
