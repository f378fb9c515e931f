"""The last step of a chain: what was made and how it scored, as tables and pictures on one page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.cells import Tuned
from flows.charts import bars
from flows.curves import learning_curve
from flows.finetune import label
from flows.look import in_short, make_look, read_look
from flows.page import Picture, Shown, write_page
from flows.stage import Stage, show
from flows.trained import domain_table, floors_of, language_model, training_facts, what_it_writes
from modules import tasks
from modules.config import Config
from modules.files import Progress, read_jsonl, write_json
from modules.run import RunConfig
from registry import artifacts
from registry.artifacts import Artifact
from registry.tables import Kind


class ReportConfig(Config):
    """What a report is about."""

    name: str
    """The preset it shows."""


def make_report(
    at: Stage,
    run: RunConfig,
    tokens: Artifact,
    checkpoint: Artifact,
    tuned: Tuned,
    zero_shot: Mapping[str, Mapping[str, Any]],
) -> Artifact:
    """Write report.json, report.md and report.html from everything a chain made."""
    workspace = at.workspace
    zero_shot = {task: zero_shot[task] for task in run.zero_shot.tasks}  # the run's order
    made = {
        **{
            f"tuned.{key}": artifacts.look_up(workspace, x["fingerprint"])
            for key, x in tuned.items()
        },
        **{
            f"scores.{key}": artifacts.look_up(workspace, x["fingerprint"])
            for key, x in zero_shot.items()
        },
    }

    looked = make_look(at, run.name, tokens)

    def step(out: Path, progress: Progress) -> dict[str, Any]:
        curve = list(read_jsonl(checkpoint.path / "curve.jsonl"))
        floors = floors_of(tokens)
        facts = training_facts(checkpoint)
        shown = [
            language_model(facts, floors, tokens),
            domain_table(facts),
            fine_tuning(run, tuned, workspace.data),
            prompting(zero_shot),
        ]
        pictures = [
            Picture(
                "Learning curve", learning_curve(curve, floors, skipped=facts["skipped_steps"])
            ),
            Picture("Fine-tuned accuracy (mark: the majority class)", accuracy_bars(shown[2])),
        ]
        page = [*shown, *pictures, what_it_writes(checkpoint), *in_short(read_look(looked))]
        write_json(out / "report.json", {"tables": [asdict(table) for table in shown]})
        write_page(out, f"textmill {run.name}", page)
        return {"tables": len(shown), "pictures": len(pictures)}

    inputs = {"tokens": tokens, "checkpoint": checkpoint, "corpus": looked, **made}
    report = at.make(
        Kind.REPORT, run.name, step, config=ReportConfig(name=run.name), inputs=inputs, version=3
    )
    text = (report.path / "report.md").read_text()
    show("report", text, f"Everything about {run.name} on one page")
    return report


def fine_tuning(run: RunConfig, tuned: Tuned, data: Path) -> Shown:
    """Set each task's accuracy beside majority, bag of words and the same network from scratch."""
    from modules.evaluation.baselines import majority, tfidf

    rows = []
    for name in run.finetune.tasks:
        task = tasks.get(name)
        seed = run.finetune.seeds[0]
        mine = _headline(tuned[label(name, "auxiliary", seed)]["scores"])
        scratch = tuned.get(label(name, "scratch", seed))
        rows.append(
            [
                name,
                task.format.replace("_", " "),
                f"{majority(task, data).value:.3f}",
                f"{tfidf(task, data).value:.3f}",
                f"{_headline(scratch['scores'])['value']:.3f}" if scratch else "-",
                f"{mine['value']:.3f}",
                f"{mine['low']:.3f} to {mine['high']:.3f}",
                str(mine["n"]),
            ]
        )
    return Shown(
        "Fine-tuned, accuracy on the test split",
        [
            "task",
            "format",
            "majority",
            "TF-IDF + LR",
            "from scratch",
            "pretrained",
            "95 % interval",
            "items",
        ],
        rows,
        "Seed 0 only; `textmill study ablation` compares over three. social_iqa is hard: at this "
        "size expect little over chance.",
    )


def _headline(scores: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return next(score for score in scores if score["split"] == "test")


def accuracy_bars(shown: Shown) -> bytes:
    """Draw the fine-tuned accuracies with the majority class as a mark."""
    return bars(
        {row[0]: float(row[5]) for row in shown.rows},
        "accuracy",
        {row[0]: float(row[2]) for row in shown.rows},
    )


def prompting(results: Mapping[str, Mapping[str, Any]]) -> Shown:
    """List the zero-shot scores, with GPT-2's published number where the format is the same."""
    rows = []
    for name, result in results.items():
        reference = tasks.get(name).reference
        for score in result["scores"]:
            variant = score["protocol"].get("variant") or score["protocol"].get("scoring") or ""
            rows.append(
                [
                    name,
                    score["metric"],
                    str(variant),
                    f"{score['value']:.4g}",
                    f"{score['low']:.4g} to {score['high']:.4g}",
                    str(score["n"]),
                    ", ".join(f"{model} {value}" for model, value in list(reference.items())[:1]),
                ]
            )
    return Shown(
        "Zero-shot, GPT-2's formats on sample sets",
        [
            "task",
            "metric",
            "variant",
            "value",
            "95 % interval",
            "items",
            "GPT-2 paper, its own set",
        ],
        rows,
        "The paper's numbers are for other texts of the same format and models of 117M to 1.5B "
        "parameters; they show what the format can give, not what this model should.",
    )


def read_tables(report: Artifact) -> list[dict[str, Any]]:
    """Return the tables of a report."""
    found: list[dict[str, Any]] = json.loads((report.path / "report.json").read_text())["tables"]
    return found
