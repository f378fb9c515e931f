"""A model version's card: what the catalogue knows of it, as Markdown, and nothing else.

Sections follow Mitchell et al. 2019 (Model Cards for Model Reporting) where there are facts for
them; what was not recorded or not measured is said to be so.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from registry import artifacts, catalogue, db
from registry.catalogue import Edge
from registry.licences import licences, named_files
from registry.tables import Artifact, Kind, Run, Score
from registry.versions import data_version
from registry.workspace import Workspace

SHORT = 5000  # characters of a description: the column of MLflow's table
IN_FACT = ("steps", "tokens", "precision")  # of training.json
CORPUS = (Kind.LINKS, Kind.PAGES, Kind.DOCUMENTS, Kind.TOKENIZER, Kind.TOKENS)


@dataclass(frozen=True)
class Facts:
    """What the catalogue says of a version, loaded at once."""

    name: str
    version: int
    checkpoint: Artifact
    training: dict[str, Any]  # the checkpoint's training.json
    edges: list[Edge]  # what it was made from, nearest first
    runs: dict[str, Run]  # those that made it and its ancestors, by id
    scores: list[Score]
    overlaps: list[dict[str, Any]]  # rows of measured tables: task, corpus (share of n-grams)

    @property
    def ancestors(self) -> list[Artifact]:
        """What it was made from, nearest first, each once."""
        return list({e.parent.id: e.parent for e in self.edges if e.parent is not None}.values())

    def run_of(self, artifact: Artifact) -> Run | None:
        """The run that made an artifact, if one is recorded."""
        return self.runs.get(artifact.run_id or "")


def write(ws: Workspace, name: str, version: int) -> str:
    """Return the card of a registered version."""
    facts = load(ws, name, version)
    parts = [
        f"# {name} version {version}",
        about(facts),
        section("Training data", corpus(facts), licence_table(ws, facts)),
        section("Training", training(facts)),
        section("Scores", scores(facts)),
        section("Overlap with evaluation sets", overlap(facts)),
        section("Limits", limits(facts)),
        section("Lineage", lineage(facts)),
        section("How to load it", how_to_load(facts)),
    ]
    return "\n\n".join(parts) + "\n"


def shortened(card: str, limit: int = SHORT) -> str:
    """Return a card of at most so many characters: its longest sections only point to the file."""
    head, *parts = card.split("\n## ")
    while len(text := "\n## ".join([head, *parts])) > limit:
        longest = max(range(len(parts)), key=lambda i: len(parts[i]))
        title = parts[longest].partition("\n")[0]
        parts[longest] = f"{title}\n\nIn README.md among this version's files.\n"
    return text


def load(ws: Workspace, name: str, version: int) -> Facts:
    """Collect the facts about a version.

    Raises:
        ValueError: there is no such version.
    """
    with db.reading(ws.database_url) as session:
        model = catalogue.find_model(session, name, version)
        if model is None:
            raise ValueError(f"no model {name}/{version}")
        checkpoint = model.artifact
        edges = catalogue.ancestors(session, checkpoint.fingerprint)
        made = [checkpoint, *(edge.parent for edge in edges if edge.parent)]
        runs = {row.id: row for x in made if (row := session.get(Run, x.run_id or ""))}
        found = catalogue.leaderboard(session, fingerprint=checkpoint.fingerprint)
        documents = [x.fingerprint for x in made if x.kind == Kind.DOCUMENTS]
        tables = {
            report.fingerprint
            for corpus in documents
            for report in catalogue.children(session, corpus, Kind.REPORT)
            if "overlap.json" in report.manifest["files"]
        }
    rows = [
        row for table in sorted(tables) for row in _json(ws, table, "overlap.json")["data_sets"]
    ]
    training = _json(ws, checkpoint.fingerprint, "training.json")
    return Facts(name, version, checkpoint, training, edges, runs, found, rows)


def _json(ws: Workspace, fingerprint: str, file: str) -> dict[str, Any]:
    """Read a JSON file of an artifact; {} where the artifact has none of that name."""
    path = artifacts.checkout(ws, fingerprint, verify=False).path / file
    return json.loads(path.read_text()) if path.exists() else {}


def about(facts: Facts) -> str:
    """Say in a sentence what it is."""
    model = _model(facts)
    size = facts.training.get("counts", {}).get("parameters")
    tuned = facts.checkpoint.kind == Kind.TUNED
    words = ["A language model" + (f" fine-tuned on {_config(facts).get('task')}" if tuned else "")]
    words += [f"of {size:,} parameters"] if size else []
    words += [f"({model['architecture']})"] if model.get("architecture") else []
    words += [f"that reads up to {model['n_positions']:,} tokens"] if "n_positions" in model else []
    return " ".join(words) + ", made by textmill."


def corpus(facts: Facts) -> str:
    """Say what it was trained on: amounts, and what was dropped and why."""
    rows = [
        (f"{x.kind}/{x.name}", x.fingerprint[:12], _amounts(x.counts))
        for x in facts.ancestors
        if x.kind in CORPUS
    ]
    return table(["artifact", "fingerprint", "holds"], rows) if rows else "Not recorded."


def licence_table(ws: Workspace, facts: Facts) -> str:
    """Say under which licences the input files are, where data/ still is what was read."""
    if facts.checkpoint.data_version != data_version(ws):
        return "Licences: data/ is at another version than when this was made."
    ours = {x.run_id for x in (facts.checkpoint, *facts.ancestors)}
    files = named_files(ws, [run.config for key, run in facts.runs.items() if key in ours])
    rows = licences(ws, files)
    if not rows:
        return "Licences: none is recorded in data/LICENSES.md for the files that were read."
    return "Licences of the works in the input files (data/LICENSES.md):\n\n" + table(
        ["work", "licence"], rows
    )


def training(facts: Facts) -> str:
    """Say how it was trained, and what that took."""
    known, run = facts.training, facts.run_of(facts.checkpoint)
    rows: list[Sequence[Any]] = [(key, value) for key, value in _chosen(facts).items()]
    rows += [(f"{key} in fact", known[key]) for key in IN_FACT if key in known]
    rows += [
        (key, value) for key, value in known.get("environment", {}).items() if key != "versions"
    ]
    if run is not None and run.ended is not None:
        rows.append(("run", run.id))
        rows.append(("its time", f"{(run.ended - run.started).total_seconds():,.0f} s"))
    return table(["what", "value"], rows) if rows else "Not recorded."


def scores(facts: Facts) -> str:
    """List every score with its interval and its protocol."""
    rows = [
        (
            score.task,
            score.metric,
            f"{score.value:.5g}",
            "-" if score.low is None else f"{score.low:.5g} to {score.high:.5g}",
            score.n,
            f"{score.split}, task version {score.version}",
            ", ".join(f"{k} {v}" for k, v in json.loads(score.protocol).items() if v != ""),
        )
        for score in facts.scores
    ]
    if not rows:
        return "None was measured when this card was written."
    header = ["set", "metric", "value", "95 % interval", "items", "split", "protocol"]
    return table(header, rows)


def overlap(facts: Facts) -> str:
    """Say which share of the evaluation sets' n-grams is in the training text."""
    if not facts.overlaps:
        return "Not measured (`textmill overlap` measures it)."
    rows = [(row["task"], f"{row['corpus']:.2%}") for row in facts.overlaps]
    return table(["set", "share of its 8-grams that is in the training text"], rows)


def limits(facts: Facts) -> str:
    """Say what the numbers say about what it cannot do."""
    known, lines = facts.training, []
    if tokens := known.get("tokens"):
        lines.append(f"It read {tokens:,} tokens in {known.get('steps', 0):,} steps.")
    for name, passes in known.get("epochs", {}).items():
        lines.append(f"That is {passes:.2f} times its training text ({name}).")
    if loss := known.get("held_out_loss"):
        perplexity = math.exp(min(loss, 700))
        lines.append(f"Held-out loss: {loss:.3f} nats a token (perplexity {perplexity:.1f}).")
    lines += [
        f"An n-gram model of the same text: {x.counts['bigram_nats']:.3f} nats a token (bigrams)."
        for x in facts.ancestors
        if x.kind == Kind.TOKENS and "bigram_nats" in x.counts
    ]
    if "n_positions" in (model := _model(facts)):
        lines.append(f"It sees at most {model['n_positions']:,} tokens at once.")
    lines.append("Nothing beyond the scores above was measured: no toxicity, bias or truthfulness.")
    return "\n".join(f"- {line}" for line in lines)


def lineage(facts: Facts) -> str:
    """Name the bytes and the code that made it."""
    row = facts.checkpoint
    inputs = [(e.role, f"data/ files {e.data}") for e in facts.edges if e.data]
    return table(
        ["what", "value"],
        [
            (f"{row.kind}", row.fingerprint),
            ("DVC", row.dvc_md5),
            ("git commit", row.git_commit),
            ("data.dvc", row.data_version),
            ("textmill", row.code_version),
            *[(f"{name}", value) for name, value in row.manifest.get("libraries", {}).items()],
            *[(f"{x.kind}/{x.name}", x.fingerprint) for x in facts.ancestors],
            *dict.fromkeys(inputs),
        ],
    )


def how_to_load(facts: Facts) -> str:
    """Show the two ways to use it."""
    reference = f"{facts.name}/{facts.version}"
    lines = [
        "```python",
        "import mlflow  # inside the project, or with TEXTMILL_ROOT set to it",
        f'model = mlflow.pyfunc.load_model("models:/{reference}")',
        "```",
        "",
        "```sh",
        f"textmill checkout {reference}   # the folder: safetensors, JSON and the tokenizer",
        f"textmill lineage {reference}",
        "```",
    ]
    return "\n".join(lines)


def section(title: str, *parts: str) -> str:
    """Return a section of a card."""
    return "\n\n".join([f"## {title}", *parts])


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table; what a cell holds cannot end it."""
    lines = [list(header), ["---"] * len(header), *([_cell(x) for x in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    """Return a value as a table's cell."""
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def _amounts(counts: Mapping[str, Any]) -> str:
    """Return counts as words."""
    return ", ".join(f"{_cell(value)} {key}" for key, value in counts.items())


def _config(facts: Facts) -> dict[str, Any]:
    """Return the config that the checkpoint was made with."""
    found: dict[str, Any] = facts.checkpoint.config
    return found


def _model(facts: Facts) -> dict[str, Any]:
    """Return the decoder's config: its own, or that of the checkpoint it was tuned from."""
    made = [facts.checkpoint, *facts.ancestors]
    configs = [x.config["model"] for x in made if isinstance(x.config.get("model"), dict)]
    return configs[0] if configs else {}


def _chosen(facts: Facts) -> dict[str, Any]:
    """Return the settings of training that are single values, with dotted names."""
    config = {"model": _model(facts), **_config(facts)}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        inner = value if isinstance(value, dict) else {"": value}
        for name, single in inner.items():
            if isinstance(single, str | int | float) and not isinstance(single, bool):
                flat[f"{key}.{name}".strip(".")] = single
    return flat
