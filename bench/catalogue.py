"""How fast a large catalogue answers: 100,000 artifacts, 1,000,000 scores, 5,000 model versions.

    python -m bench.catalogue --root /tmp/large            makes it (minutes), then measures
    TEXTMILL_DATABASE_URL=postgresql://... python -m bench.catalogue --root /tmp/large

Chains as flows make them: a corpus of five steps, nights that continue it, checkpoints, tuned
ones and scores. Each look-up is timed after imports, best and median of some rounds.
"""

import argparse
import hashlib
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import func, insert, select

from registry import catalogue, db, lineage, models, outbox, references, runs
from registry.tables import Alias, Artifact, InputFile, Lineage, ModelVersion, Run, Score
from registry.workspace import Workspace

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
ROUNDS = 7
LIMIT = 0.2  # seconds: issue 7
PER_MODEL = 20  # artifacts of one chain behind each checkpoint's models: 1 + tuned + scores
TASKS = [f"task_{n}" for n in range(20)]
CORPUS = 50  # checkpoints that share one corpus
Rows = dict[type[Any], list[dict[str, Any]]]


def fingerprint(number: int) -> str:
    """Return a fingerprint for a number."""
    return hashlib.sha256(str(number).encode()).hexdigest()


class Maker:
    """Numbers the rows of a synthetic catalogue as it makes them."""

    def __init__(self, n_artifacts: int, n_scores: int, n_models: int, n_runs: int) -> None:
        self.n_artifacts, self.n_scores = n_artifacts, n_scores
        self.n_models, self.n_runs = n_models, n_runs
        self.rows: Rows = {t: [] for t in (Run, Artifact, Lineage, InputFile, ModelVersion, Score)}
        self.artifacts = self.versions = self.scores = 0
        self.chance = random.Random(0)

    def batches(self) -> Iterator[Rows]:
        """Yield rows, some thousands at a time, until there are enough."""
        for n in range(self.n_runs):
            self.rows[Run].append(run_row(n))
        corpus: dict[str, int] = {}
        chain = 0
        while self.artifacts < self.n_artifacts:
            if chain % CORPUS == 0:
                corpus = self.corpus(chain // CORPUS, corpus)
            self.checkpoint(chain, corpus)
            chain += 1
            if len(self.rows[Score]) > 20_000 or self.artifacts >= self.n_artifacts:
                yield self.rows
                self.rows = {table: [] for table in self.rows}

    def corpus(self, number: int, older: dict[str, int]) -> dict[str, int]:
        """Add the chain of a corpus; every second one continues the one before."""
        base = {"base": older["documents"]} if older and number % 2 else {}
        name, data = f"corpus-{number % 40}", f"dumps {number // 2}"
        links = self.artifact("links", name, {}, {"dumps": data})
        pages = self.artifact("pages", name, {"links": links}, {"warcs": f"warcs {number}"})
        text = self.artifact("documents", f"{name}-text", {"pages": pages}, {})
        documents = self.artifact("documents", name, {"text": text, **base}, {})
        tokenizer = self.artifact("tokenizer", name, {"documents": documents}, {})
        inputs = {"documents": documents, "tokenizer": tokenizer}
        tokens = self.artifact("tokens", name, inputs, {})
        return {**inputs, "tokens": tokens}

    def checkpoint(self, number: int, corpus: dict[str, int]) -> None:
        """Add a checkpoint, its scores, tuned ones and models."""
        name = f"run-{number % 500}"
        inputs = {role: corpus[role] for role in ("tokens", "tokenizer")}
        checkpoint = self.artifact("checkpoint", name, inputs, {})
        self.model(f"textmill-{name}", checkpoint)
        for task in TASKS[: PER_MODEL // 2]:
            tuned = self.artifact(
                "tuned", f"{name}-{task}", {"checkpoint": checkpoint}, {"task": task}
            )
            self.score(tuned)
        for task in TASKS[PER_MODEL // 2 :]:
            self.artifact("scores", f"{name}-{task}", {"checkpoint": checkpoint}, {"task": task})
        self.score(checkpoint)

    def artifact(self, kind: str, name: str, parents: dict[str, int], data: dict[str, str]) -> int:
        """Add an artifact and what it was made from; return its id."""
        self.artifacts += 1
        number = self.artifacts
        run = f"{min(number * self.n_runs // self.n_artifacts, self.n_runs - 1):012x}"
        self.rows[Artifact].append(artifact_row(number, kind, name, run))
        line = {"child_id": number}
        self.rows[Lineage] += [
            line | {"role": role, "parent_id": parent, "data": None}
            for role, parent in parents.items()
        ]
        for role, text in data.items():
            value = hashlib.sha256(text.encode()).hexdigest()
            self.rows[Lineage].append(line | {"role": role, "parent_id": None, "data": value})
            self.rows[InputFile] += input_rows(value, text)
        return number

    def model(self, name: str, artifact: int) -> None:
        """Add a model version while there are too few."""
        if self.versions < self.n_models:
            self.versions += 1
            self.rows[ModelVersion].append(
                {
                    "name": name,
                    "version": 1 + (self.versions - 1) // 500,
                    "artifact_id": artifact,
                    "tags": {f"score.{task}.bits_per_byte": "1.234" for task in TASKS},
                    "mlflow_version": None,
                    "created": BEGAN,
                }
            )

    def score(self, artifact: int) -> None:
        """Add the scores of an artifact: so many that there are enough in the end."""
        made = self.n_artifacts * 11 // (PER_MODEL + 1)  # artifacts with scores
        for number in range(round(self.n_scores / made)):
            self.scores += 1
            self.rows[Score].append(
                {
                    "id": self.scores,
                    "artifact_id": artifact,
                    "run_id": None,
                    "task": TASKS[number % len(TASKS)],
                    "metric": f"bits_per_byte_{number}" if number > 2 else "bits_per_byte",
                    "value": self.chance.uniform(0.8, 2.0),
                    "n": 1000,
                    "low": 0.7,
                    "high": 2.1,
                    "split": "test",
                    "version": 1,
                    "protocol": f'{{"stride":{number}}}',
                    "created": BEGAN,
                }
            )


def run_row(number: int) -> dict[str, Any]:
    """Return a finished run."""
    moment = BEGAN + timedelta(minutes=number)
    names = ("prepare_corpus", "pretrain", "finetune", "zero_shot")
    facts = {"git_commit": "c" * 40, "data_version": "d" * 32, "host": "elsewhere", "detail": ""}
    return facts | {
        "id": f"{number:012x}",
        "stage": names[number % 4],
        "name": f"run-{number % 500}",
        "status": "completed",
        "started": moment,
        "ended": moment,
        "heartbeat": moment,
        "config": {"name": f"run-{number % 500}", "settings": {str(x): x for x in range(60)}},
        "parent_id": f"{number - number % 5:012x}" if number % 5 else None,
        "flow_run_id": fingerprint(number)[:36],
        "mlflow_run_id": fingerprint(number)[:32],
        "pid": 1,
        "pid_started": 1,
    }


def artifact_row(number: int, kind: str, name: str, run: str) -> dict[str, Any]:
    """Return an artifact with a manifest of usual size (3 kB)."""
    value = fingerprint(number)
    files = {f"part-{n:05d}.bin": {"sha256": fingerprint(-n), "size": 1000} for n in range(12)}
    config = {"settings": {f"setting_{n}": n for n in range(40)}}
    facts = {"code_version": "0.1.0", "git_commit": "c" * 40, "data_version": "d" * 32}
    return facts | {
        "id": number,
        "kind": kind,
        "name": name,
        "fingerprint": value,
        "config": config,
        "counts": {"steps": number},
        "manifest": {"kind": kind, "name": name, "config": config, "files": files, "libraries": {}},
        "size": 12_000,
        "n_files": 12,
        "dvc_md5": f"{value[:32]}.dir",
        "dvc_file": f"outs:\n- md5: {value[:32]}.dir\n  size: 12000\n",
        "created": BEGAN + timedelta(minutes=number),
        "run_id": run,
    }


def input_rows(data: str, text: str) -> list[dict[str, Any]]:
    """Return the three files behind a fingerprint of input data."""
    names = [f"{text.replace(' ', '-')}-{n}.zst" for n in range(3)]
    return [
        {
            "data": data,
            "path": f"data/web/{name}",
            "name": name,
            "sha256": hashlib.sha256(name.encode()).hexdigest(),
            "size": 1000,
        }
        for name in names
    ]


def fill(ws: Workspace, maker: Maker) -> None:
    """Put a synthetic catalogue into an empty database."""
    known: set[tuple[str, str]] = set()
    for rows in maker.batches():
        fresh = {(x["data"], x["path"]): x for x in rows[InputFile]}
        rows[InputFile] = [x for key, x in fresh.items() if key not in known]
        known |= fresh.keys()

        def add(session: Any, rows: Rows = rows) -> None:
            for table, values in rows.items():
                if values:
                    session.execute(insert(table), values)

        db.write(ws.database_url, add)

    db.write(ws.database_url, name_champions)


def name_champions(session: Any) -> None:
    """Make every model's newest version its champion."""
    newest = select(ModelVersion.name, func.max(ModelVersion.version)).group_by(ModelVersion.name)
    for name, version in session.execute(newest).all():
        session.add(Alias(name=name, alias="champion", version=version))


def look_ups(ws: Workspace) -> dict[str, Callable[[], Any]]:
    """Return what the commands ask the catalogue."""

    def reading(ask: Callable[[Any], Any]) -> Callable[[], Any]:
        def asked() -> Any:
            with db.reading(ws.database_url) as session:
                return ask(session)

        return asked

    def newest(kind: str) -> Callable[[Any], Any]:
        return lambda session: catalogue.list_artifacts(session, kind=kind, limit=1)

    first, champion = fingerprint(1), "textmill-run-7@champion"
    return {
        "open the workspace": lambda: Workspace.open(ws.root),
        "models": lambda: models.list_models(ws, current=True),
        "models NAME": lambda: models.list_models(ws, "textmill-run-7"),
        "status: newest runs": reading(lambda s: runs.list_runs(s, limit=15)),
        "status: dead runs": reading(runs.interrupted_runs),
        "look up model@champion": reading(lambda s: references.find(s, champion)),
        "look up kind/name": reading(lambda s: references.find(s, "checkpoint/run-7")),
        "look up fingerprint": reading(lambda s: references.find(s, fingerprint(77_777)[:12])),
        "look up what is not there": reading(lambda s: refused(s, "textmill-none@champion")),
        "why: the newest corpus": reading(newest("tokens")),
        "lineage model@champion": reading(
            lambda s: lineage.ancestry(s, references.find(s, champion))
        ),
        "uses the first links": reading(lambda s: lineage.progeny(s, [references.find(s, first)])),
        "uses a file by name": reading(
            lambda s: lineage.progeny(
                s,
                lineage.made_from_data(
                    s, {x.data for x in lineage.find_inputs(s, "dumps-0-0.zst")}
                ),
            )
        ),
        "promote: scores of a model": reading(
            lambda s: catalogue.leaderboard(s, fingerprint=references.find(s, champion).fingerprint)
        ),
        "promote: versions of a name": lambda: models.list_models(ws, "textmill-run-7"),
        "doctor: artifacts": reading(catalogue.count_artifacts),
        "doctor: outbox": reading(lambda s: outbox.count_pending(s, "mlflow")),
    }


def refused(session: Any, reference: str) -> str:
    """Look up what is not there; return the message with what there is."""
    try:
        references.find(session, reference)
    except ValueError as error:
        return str(error)
    raise AssertionError(f"{reference} is there")


def main() -> None:
    """Make the catalogue if it is not there, time every look-up, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder of the project")
    for name, default in (("artifacts", 100_000), ("scores", 1_000_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("models", 5_000), ("runs", 20_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    given.root.mkdir(parents=True, exist_ok=True)
    os.environ["TEXTMILL_ROOT"] = str(given.root)
    ws = Workspace.open(given.root)
    with db.reading(ws.database_url) as session:
        empty = catalogue.count_artifacts(session) == 0
    if empty:
        began = time.perf_counter()
        fill(ws, Maker(given.artifacts, given.scores, given.models, given.runs))
        print(f"made in {time.perf_counter() - began:.0f} s")
    with db.reading(ws.database_url) as session:
        tables = (Artifact, Lineage, Score, ModelVersion, Run, InputFile)
        sizes = {
            t.__tablename__: session.scalar(select(func.count()).select_from(t)) for t in tables
        }
    print(", ".join(f"{n:,} {name}" for name, n in sizes.items()))
    slow = 0
    for name, ask in look_ups(ws).items():
        times = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            ask()
            times.append(time.perf_counter() - began)
        median = statistics.median(times)
        slow += median > LIMIT
        mark = "SLOW" if median > LIMIT else ""
        print(f"{name:30} best {min(times) * 1e3:7.1f} ms  median {median * 1e3:7.1f} ms  {mark}")
    print(f"{slow} slower than {LIMIT * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
