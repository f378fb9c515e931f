"""Public weights in, ours out: a checkpoint of the catalogue from a folder, and back."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules.files import write_bytes, write_json
from registry import artifacts, card, db, models, runs
from registry.artifacts import Artifact
from registry.files import check_name, digest
from registry.provenance import git_commit
from registry.tables import Kind, Status
from registry.versions import data_version
from registry.workspace import Workspace

logger = logging.getLogger(__name__)

VERSION = 1  # of this step's code
READ = (  # all else in a folder is never opened
    *("config.json", "*.safetensors", "model.safetensors.index.json", "vocab.json", "merges.txt"),
    *("hparams.json", "model.ckpt.index", "model.ckpt.data-*", "encoder.json", "vocab.bpe"),
    *("params_shapes.json", "params_*.npy"),
)
KNOWN = {  # sha256 of encoder.json, as in tiktoken_ext/openai_public.py
    "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783": "GPT-2's"
}


def import_weights(workspace: Workspace, folder: Path, name: str) -> Artifact:
    """Make a checkpoint of the catalogue from a folder of public weights; the same one only once.

    Raises:
        FileNotFoundError: the folder holds no weights that we read.
        ValueError: they are damaged, hostile, or of no decoder of the two papers.
    """
    check_name(name)
    files = {path.name: digest(path) for pattern in READ for path in sorted(folder.glob(pattern))}
    config = {"name": name, "files": files}
    fingerprint = artifacts.fingerprint(Kind.CHECKPOINT, config, {}, VERSION)
    if found := artifacts.find(workspace, Kind.CHECKPOINT, fingerprint):
        return found
    run = _start(workspace, config)
    try:
        made = _make(workspace, folder, name, fingerprint, config, run)
    except BaseException as error:
        _finish(workspace, run, Status.FAILED, f"{type(error).__name__}: {error}")
        raise
    _finish(workspace, run, Status.COMPLETED)
    return made


def _make(
    workspace: Workspace,
    folder: Path,
    name: str,
    fingerprint: str,
    config: Mapping[str, Any],
    run: str,
) -> Artifact:
    """Read the weights into a work folder, check the tokenizer, publish."""
    from modules.model.releases import import_any

    with artifacts.workdir(workspace, Kind.CHECKPOINT, name, fingerprint) as work:
        counts: dict[str, Any] = import_any(folder, work)
        counts["tokenizer"] = check_tokenizer(work, folder)
        write_json(work / "origin.json", {"files": config["files"], **counts})
        return artifacts.publish(
            workspace,
            work,
            kind=Kind.CHECKPOINT,
            name=name,
            fingerprint=fingerprint,
            config=config,
            inputs={},
            counts=counts,
            run_id=run,
        )


def check_tokenizer(checkpoint: Path, source: Path) -> str:
    """Say whose vocabulary an imported checkpoint has.

    Raises:
        FileNotFoundError: a model that reads bytes came without its vocabulary.
        ValueError: the vocabulary is damaged, or of another model.
    """
    from modules import tokenizer as bpe

    config = json.loads((checkpoint / "config.json").read_text())
    if not (checkpoint / "tokenizer").is_dir():
        if config["norm"] == "pre":
            raise FileNotFoundError(
                f"{source} has no vocab.json and merges.txt (or encoder.json and vocab.bpe): "
                "put the model's own beside the weights"
            )
        return "none: GPT-1's own is of words, so it is fine-tuned and asked by ids only"
    found = bpe.load(checkpoint / "tokenizer")
    if found.n_vocab != config["vocab_size"]:
        raise ValueError(
            f"{source}: the vocabulary has {found.n_vocab:,} entries, the model "
            f"{config['vocab_size']:,}: they are of different models"
        )
    return KNOWN.get(digest(checkpoint / "tokenizer" / "encoder.json"), "its own, hash not known")


def export(workspace: Workspace, what: str, folder: Path) -> dict[str, int]:
    """Write a model as transformers loads it, with a README that says what it is.

    Raises:
        ValueError: nothing has that name, or it has no public layout.
        FileExistsError: the folder holds something already.
    """
    from modules.model.weights import export_hf

    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; give a new folder")
    own = Path(what)
    if own.is_dir():
        return export_hf(own, folder)
    artifact = artifacts.checkout(workspace, what)
    counts = export_hf(artifact.path, folder)
    write_bytes(folder / "README.md", readme(workspace, what, artifact, counts).encode())
    return counts


def readme(workspace: Workspace, what: str, artifact: Artifact, counts: Mapping[str, int]) -> str:
    """Return the README of an exported model: how to load it, and its card if it has a version."""
    rows = models.list_models(workspace)
    named = [row for row in rows if row["fingerprint"] == artifact.fingerprint]
    told = [card.write(workspace, row["name"], row["version"]) for row in named[:1]]
    return f"""---
library_name: transformers
pipeline_tag: text-generation
---

{counts["parameters"]:,} parameters, exported by textmill: {what}, `{artifact.reference}`.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("THIS FOLDER")
tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER")
```

{"".join(told)}"""


def _start(workspace: Workspace, config: Mapping[str, Any]) -> str:
    """Record that an import begins."""

    def work(session: Any) -> str:
        return runs.start_run(
            session,
            stage="import",
            name=config["name"],
            config=dict(config),
            git_commit=git_commit(workspace.root),
            data_version=data_version(workspace),
        ).id

    return db.write(workspace.database_url, work)


def _finish(workspace: Workspace, run: str, status: Status, detail: str = "") -> None:
    db.write(
        workspace.database_url,
        lambda session: runs.finish_run(session, run, status, detail),
    )
