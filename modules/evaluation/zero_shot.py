"""Ask one model one benchmark, without training on it (GPT-2, section 3) -> items and Scores.

Answers are kept as they come (modules/evaluation/journal.py), so a killed evaluation goes on. Every
item's result ends in items/<task>.jsonl.zst, and how it was asked in items/<task>.json; scores are
computed from those alone (`recompute`), and a finished task is not asked twice.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from modules.evaluation import ask
from modules.evaluation.confidence import most_confident, reliability_of
from modules.evaluation.config import ZeroShotConfig
from modules.evaluation.journal import Journal, Remember
from modules.evaluation.metrics import bleu_signature, interval
from modules.files import Progress, json_line, read_jsonl, silent, write_json, write_jsonl
from modules.task import Item, Items, Row, Score, Task, asked_rows, with_shots

T = TypeVar("T")
FORMAT = 1  # of the journal and the items; raised where the planning of passes changes


def evaluate(
    checkpoint: Path,
    task: Task,
    data: Path,
    out: Path,
    config: ZeroShotConfig,
    progress: Progress = silent,
) -> list[Score]:
    """Ask a checkpoint one benchmark, write items/<task>.jsonl.zst below `out`, return the scores.

    Raises:
        ValueError: the benchmark has no zero-shot form, a row is wrong, or a result is not finite.
    """
    return evaluate_subject(
        ask.load_subject(checkpoint, config.device), task, data, out, config, progress=progress
    )


def evaluate_all(
    checkpoint: Path,
    tasks: Sequence[Task],
    data: Path,
    out: Path,
    config: ZeroShotConfig,
    progress: Progress = silent,
) -> list[Score]:
    """Ask a checkpoint several benchmarks, loading it once; write scores.json and the items."""
    subject = ask.load_subject(checkpoint, config.device)
    scores: list[Score] = []
    for done, task in enumerate(tasks):
        progress(done, len(tasks), task.name)
        scores += evaluate_subject(subject, task, data, out, config)
    write_json(out / "scores.json", [asdict(score) for score in scores])
    progress(len(tasks), len(tasks), "done")
    return scores


def evaluate_subject(
    subject: ask.Subject,
    task: Task,
    data: Path,
    out: Path,
    config: ZeroShotConfig,
    *,
    progress: Progress = silent,
) -> list[Score]:
    """Ask a loaded model one benchmark; what `out` holds of the same asking is used again."""
    split = config.split_of(task)
    if config.shots_of(task) != task.shots:
        task = with_shots(task, config.shots_of(task))
    rows = asked_rows(task, data, split)
    variants = {
        name: spread(make_items(task, make, rows), config.limit)
        for name, make in ways_to_ask(task).items()
    }
    settings = settings_of(config, subject.positions)
    about = {
        "format": FORMAT,
        "model": subject.identity,
        "positions": subject.positions,
        "task": task.name,
        "task_version": task.version,
        "split": split,
        "items": fingerprint(variants),
        "settings": asdict(settings),
    }
    path, facts = files_of(out, task)
    if facts.exists() and json.loads(facts.read_text())["about"] == about:
        write_json(facts, {"about": about, "config": config.model_dump(mode="json")})
        return recompute(out, task)
    journal = Journal(path.with_name(f"{task.name}.part"), about)
    results: list[Row] = []
    for name, items in variants.items():
        remember: Remember = partial(under, journal, name)
        asked = ask.rows_of(subject, task, items, settings, remember=remember, progress=progress)
        results += [{"variant": name, **row} for row in asked]
    check_finite(task, results)
    facts.unlink(missing_ok=True)  # of another asking: it must not stand beside these items
    write_jsonl(path, results)
    if task.generation.get("confidence"):
        write_reliability(task, results, path.with_name(f"{task.name}.reliability.json"))
    write_json(facts, {"about": about, "config": config.model_dump(mode="json")})
    journal.close(finished=True)
    return recompute(out, task)


def write_reliability(task: Task, rows: Sequence[Row], path: Path) -> None:
    """Write what a reliability diagram of the answers needs, for the way that is scored."""
    own = [row for row in rows if row["variant"] == task.variant]
    write_json(path, reliability_of(own, next(iter(task.metrics.values()))))


def recompute(out: Path, task: Task) -> list[Score]:
    """Return a task's scores from the items that `evaluate` kept; needs neither model nor rows.

    Raises:
        FileNotFoundError: the task was not asked to its end there.
    """
    path, facts = files_of(out, task)
    if not facts.exists():
        raise FileNotFoundError(f"{facts}: missing, so {task.name} is not finished there")
    known = json.loads(facts.read_text())
    config = ZeroShotConfig.model_validate(known["config"])
    return scores_of(task, list(read_jsonl(path)), config, known["about"]["positions"])


def files_of(out: Path, task: Task) -> tuple[Path, Path]:
    """Return where a task's items lie, and the file that says how they were asked."""
    return out / "items" / f"{task.name}.jsonl.zst", out / "items" / f"{task.name}.json"


def settings_of(config: ZeroShotConfig, positions: int) -> ask.Settings:
    """Return how a model with so many positions is asked."""
    return ask.Settings(
        batch_tokens=config.tokens_at_once(),
        batch_size=config.batch_size,
        precision=config.precision,
        stride=config.stride_of(positions),
        seed=config.seed,
        convention=config.convention,
    )


def fingerprint(variants: Mapping[str, Sequence[Item]]) -> str:
    """Return a hash of everything that is asked."""
    digest = hashlib.sha256()
    for name, items in variants.items():
        for item in items:
            digest.update(json_line({"variant": name, **asdict(item)}))
    return digest.hexdigest()


def under(journal: Journal, variant: str, key: str, answer: Any) -> Any:
    """Remember an answer under its variant's name."""
    return journal.remember(f"{variant}/{key}", answer)


def ways_to_ask(task: Task) -> dict[str, Any]:
    """Return the item makers of a task's variants, the headline one first."""
    return {task.variant: task.items, **task.variants}


def make_items(task: Task, make: Items, rows: list[Row]) -> list[Item]:
    """Turn a task's rows into items; a wrong row's message names the task."""
    try:
        return make(rows)
    except ValueError as error:
        raise ValueError(f"task {task.name}: {error}") from None


def spread(items: Sequence[T], limit: int | None) -> list[T]:
    """Return at most `limit` items, evenly spread."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[i * len(items) // limit] for i in range(limit)]


def check_finite(task: Task, rows: Sequence[Row]) -> None:
    """Refuse results that are not finite numbers, naming the item."""
    for row in rows:
        for column, value in row.items():
            values = value if isinstance(value, list) else [value]
            if any(isinstance(x, float) and not math.isfinite(x) for x in values):
                raise ValueError(
                    f"task {task.name}, item {row['id']}: {column} is {value}; "
                    "the model's weights or the precision are at fault"
                )


def scores_of(
    task: Task, rows: Sequence[Row], config: ZeroShotConfig, positions: int
) -> list[Score]:
    """Compute the scores of a task from its items' rows."""
    scores = []
    for variant in ways_to_ask(task):
        own = [row for row in rows if row["variant"] == variant]
        protocol = protocol_of(task, variant, own, config, positions)
        for name in task.metrics:
            if columns(task, name)[0] not in own[0]:
                continue  # the harness's convention has no stop-word filter
            scores.append(score_of(task, name, own, config, protocol))
        if task.generation.get("confidence"):
            scores += calibration(task, own, config, protocol)
    return scores


def score_of(
    task: Task, name: str, rows: Sequence[Row], config: ZeroShotConfig, protocol: dict[str, Any]
) -> Score:
    """Compute one metric and its interval."""
    metric, (p, r) = task.metrics[name], columns(task, name)
    predictions, references = [row[p] for row in rows], [row[r] for row in rows]
    if name == "bleu":
        protocol = {**protocol, "signature": bleu_signature()}
    value = metric(predictions, references)
    low, high = interval(
        metric, predictions, references, samples=config.bootstrap_samples, seed=config.seed
    )
    if not math.isfinite(value):
        raise ValueError(f"task {task.name}: {name} over {len(rows)} items is {value}")
    split = config.split_of(task) if task.splits else "test"
    return Score(task.name, name, value, len(rows), low, high, split, task.version, protocol)


def columns(task: Task, metric: str) -> tuple[str, str]:
    """Return which columns of the items' rows a metric compares."""
    if task.format == "perplexity":
        return "nll", "bytes" if metric in ("byte_perplexity", "bits_per_byte") else "words"
    if task.format == "cloze":
        return ("nll", "units") if metric == "perplexity" else (metric, "units")
    return "prediction", "reference"


def protocol_of(
    task: Task, variant: str, rows: Sequence[Row], config: ZeroShotConfig, positions: int
) -> dict[str, Any]:
    """Return what else must agree before two scores are compared, and what was cut."""
    protocol = {
        "format": task.format,
        "variant": variant,
        "limit": config.limit,
        "n": len(rows),
        "positions": positions,
        "precision": config.precision,
        "convention": config.convention,
        "truncated": sum(row.get("dropped", 0) > 0 for row in rows),
        **task.notes,
    }
    if task.format == "perplexity":
        protocol |= {
            "stride": config.stride_of(positions),
            "words": sum(row["words"] for row in rows),
            "not_detokenized": sum(row["fallback"] for row in rows),
        }
    if task.format == "multiple_choice":
        how = "mean token" if config.convention == "paper" else "summed"
        protocol["answer"] = f"highest {how} log-probability"
    if task.few_shot:
        protocol["shots"] = config.shots_of(task)
    if task.format == "generation":
        protocol |= ask.generation_settings(task, positions) | {"seed": config.seed}
    return protocol


def calibration(
    task: Task, rows: Sequence[Row], config: ZeroShotConfig, protocol: dict[str, Any]
) -> list[Score]:
    """Return the accuracy of the most confident answers, where there are enough of them."""
    name, scores = next(iter(task.metrics)), []
    for percent, top in most_confident(rows).items():
        score = score_of(task, name, top, config, {**protocol, "most_confident": len(top)})
        scores.append(replace(score, metric=f"{name}_most_confident_{percent}_percent"))
    return scores
