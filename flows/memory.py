"""memorisation: does a model generalise or remember? (GPT-2 paper, section 4)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import flow

from flows.charts import curves, digits
from flows.evaluate import score
from flows.overlap import make_overlap
from flows.page import Picture, Shown, write_page
from flows.spread import task_runner
from flows.stage import Stage, show, stage
from modules import presets, tasks
from modules.config import Config
from modules.corpus.overlap import OverlapConfig
from modules.evaluation.config import MemoryConfig
from modules.files import Progress, read_jsonl, write_json
from modules.run import ZeroShotRun
from modules.task import Task
from registry import artifacts
from registry.artifacts import Artifact
from registry.tables import Kind

NO_CONFIG = MemoryConfig()
EDGES = ("value", "low", "high")


class MemoryStep(Config):
    """What the report follows from, beside its inputs."""

    memory: MemoryConfig
    """How much is read and written."""
    zero_shot: ZeroShotRun
    """Which scores are split."""


@flow(name="memorisation", flow_run_name="memorisation-{name}", task_runner=task_runner())
def memorisation(
    config: MemoryConfig = NO_CONFIG,
    zero_shot: ZeroShotRun = presets.SAMPLE.zero_shot,
    overlap: OverlapConfig = OverlapConfig(),  # noqa: B008 - frozen; the form in the UI
    name: str = "sample",
    documents: str = "documents/sample",
    tokens: str = "tokens/sample",
    checkpoints: tuple[str, ...] = ("checkpoint/sample",),
    workers: int = 0,
) -> dict[str, Any]:
    """Set a corpus beside what a model of it scores and writes.

    Args:
        config: How much is read and written.
        zero_shot: The tasks whose scores are split by overlap, and how they are asked.
        overlap: What counts as the same, and how the corpus is split.
        name: What the report is called: NAME-memorisation.
        documents: The corpus: kind/name for the newest, or a fingerprint.
        tokens: Its tokens.
        checkpoints: Models of it, of several sizes; the first one is asked and writes.
        workers: Processes that read the corpus; 0 means one for each CPU core.

    Returns:
        {fingerprint, ...} as in memory.json.
    """
    with stage("memorisation", config.model_dump(mode="json") | {"name": name}) as at:
        corpus = artifacts.checkout(at.workspace, documents)
        ids = artifacts.checkout(at.workspace, tokens)
        models = [artifacts.checkout(at.workspace, checkpoint) for checkpoint in checkpoints]
        table = make_overlap(
            at, overlap.but(keep_filter=True), name, corpus, zero_shot.chosen(), workers
        )
        scored = {
            task.name: score(at, task, models[0], name, zero_shot.settings_of(task.name))
            for task in zero_shot.chosen()
        }
        report = make_report(
            at, MemoryStep(memory=config, zero_shot=zero_shot), name, table, ids, models, scored
        )
        found: dict[str, Any] = json.loads((report.path / "memory.json").read_text())
        show("memorisation", (report.path / "report.md").read_text(), "GPT-2 paper, section 4")
        return found | {"fingerprint": report.fingerprint}


def make_report(
    at: Stage,
    config: MemoryStep,
    name: str,
    table: Artifact,
    tokens: Artifact,
    models: Sequence[Artifact],
    scored: Mapping[str, Artifact],
) -> Artifact:
    """Measure, and write memory.json and a page."""

    def step(out: Path, progress: Progress) -> dict[str, Any]:
        from modules.corpus.bloom import Filter
        from modules.evaluation.ask import load_subject
        from modules.evaluation.memory import sample_overlap, split_perplexities

        sizes = []
        for done, model in enumerate(models):
            progress(done, len(models), "perplexity of training and held-out text")
            subject = load_subject(model.path)
            found = split_perplexities(subject, tokens.path, config.memory)
            sizes.append({"parameters": subject.model.config.n_params, **found})
        samples = sample_overlap(
            load_subject(models[0].path),
            tokens.path,
            Filter.open(table.path / "filter"),
            config.memory,
            progress=progress,
        )
        facts = {
            "overlap": json.loads((table.path / "overlap.json").read_text())["data_sets"],
            "scores": split_scores(config.zero_shot, table, scored),
            "sizes": sorted(sizes, key=lambda row: int(row["parameters"])),
            "samples": samples,
        }
        write_json(out / "memory.json", facts)
        write_page(out, f"Generalisation and memorisation: {name}", page_of(facts))
        return {"items": len(facts["scores"]), "samples": samples["samples"]["texts"]}

    inputs = {"overlap": table, "tokens": tokens}
    inputs |= {f"checkpoint.{i}": model for i, model in enumerate(models)}
    inputs |= {f"scores.{task}": made for task, made in scored.items()}
    return at.make(
        Kind.REPORT, f"{name}-memorisation", step, config=config, inputs=inputs, version=2
    )


def split_scores(
    config: ZeroShotRun, table: Artifact, scored: Mapping[str, Artifact]
) -> list[dict[str, Any]]:
    """Return each task's scores over the items without overlap, with any, with much."""
    from modules.evaluation.memory import scores_by_overlap
    from modules.evaluation.zero_shot import files_of

    overlap, found = list(read_jsonl(table.path / "items.jsonl.zst")), []
    for name, made in scored.items():
        if joins_rows(tasks.get(name)):
            continue
        task, settings = tasks.get(name), config.settings_of(name)
        path, facts = files_of(made.path, task)
        positions = json.loads(facts.read_text())["about"]["positions"]
        split = scores_by_overlap(list(read_jsonl(path)), overlap, task, settings, positions)
        found += [
            {"items": kind, **asdict(one)} for kind, scores in split.items() for one in scores
        ]
    return found


def joins_rows(task: Task) -> bool:
    """Return whether a task's items are of several rows, so that a row's overlap is not theirs."""
    return task.format == "perplexity" and task.hub is not None


def page_of(facts: Mapping[str, Any]) -> list[Shown | Picture]:
    """Return the tables and the picture of the page."""
    keys = dict.fromkeys(
        (row["task"], row["metric"], row["protocol"]["variant"]) for row in facts["scores"]
    )
    values = {
        (row["task"], row["metric"], row["protocol"]["variant"], row["items"]): row
        for row in facts["scores"]
    }
    kinds = ("all", "none", "any", "over 15 %")
    lines = {
        split: [(row["parameters"], *(row[split][x] for x in EDGES)) for row in facts["sizes"]]
        for split in ("train", "test")
    }
    return [
        Shown(
            "8-gram overlap (Table 6)",
            ["data set", "own train split", "corpus, train", "items with any"],
            [
                [
                    row["task"],
                    percent(row["own_train"]),
                    percent(row["corpus"]),
                    f"{row['items_with_any']} of {row['items']}",
                ]
                for row in facts["overlap"]
            ],
        ),
        Shown(
            "Scores by overlap of the items",
            ["task", "metric", "variant", *kinds],
            [[*key, *(cell(values.get((*key, kind))) for kind in kinds)] for key in keys],
            "In brackets the 95 % interval and the number of items; under 5 no score is given.",
        ),
        Shown(
            "Perplexity per token of training and held-out text (Figure 4)",
            ["parameters", "train", "test"],
            [
                [f"{row['parameters']:,}", ends(row["train"]), ends(row["test"])]
                for row in facts["sizes"]
            ],
            "95 % intervals are from resampling the documents. Windows do not overlap. The paper "
            "prints no values of its figure.",
        ),
        Picture(
            "Perplexity by size", curves(lines, "parameters", "perplexity per token", log=True)
        ),
        Shown(
            f"Overlap of what is written with the training text (Figure 5; top-k "
            f"{facts['samples']['top_k']}, {facts['samples']['context']} tokens of context, "
            f"{facts['samples']['new_tokens']} new)",
            ["text", "texts", "median", "none at all", "under 1 %"],
            [
                [
                    kind,
                    str(facts["samples"][kind]["texts"]),
                    *(
                        percent(facts["samples"][kind][key])
                        for key in ("median", "none", "under_1_percent")
                    ),
                ]
                for kind in ("samples", "real")
            ],
        ),
    ]


def cell(row: Mapping[str, Any] | None) -> str:
    """Return a score and its number of items."""
    if row is None:
        return "-"
    low, high = digits(row["low"]), digits(row["high"])
    return f"{digits(row['value'])} ({low} to {high}; {row['n']})"


def ends(found: Mapping[str, float]) -> str:
    """Return a perplexity with its interval and how much was read."""
    span = f"{found['low']:.2f} to {found['high']:.2f}"
    return f"{found['value']:.2f} ({span}; {found['documents']} documents)"


def percent(share: float | None) -> str:
    """Return a share as a percentage."""
    return "-" if share is None else f"{100 * share:.2f} %"
