"""What MLflow serves: a checkpoint or tuned checkpoint as a pyfunc model, code by file.

What MLflow needs beside the weights (MLmodel, the code, signature, example, the model's card) is
a small artifact of its own, made from the checkpoint. The weights stay where they are: a model
version's source is `dvc:///model/NAME/FINGERPRINT`, and registry/dvc_repository.py shows both as
one folder.
"""

import functools
import json
import logging
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from registry import artifacts
from registry.artifacts import DIGITS, Artifact
from registry.tables import Kind
from registry.workspace import Workspace

PACKAGES = ("torch", "safetensors", "tiktoken", "mlflow", "pandas", "pydantic", "zstandard")
WEIGHTS = "checkpoint"  # the role of the weights in a model's lineage
MOUNT = f"artifacts/{WEIGHTS}"  # where MLmodel says that they lie
CARD = "README.md"
VERSION = 1  # of what `package` writes
EXAMPLE = ["The quick brown fox"]
EXAMPLE_PARAMS: dict[str, Any] = {
    "mode": "generate",
    "max_new_tokens": 32,
    "temperature": 1.0,
    "top_k": 40,  # GPT-2 paper, section 3.8 and appendix: samples with top-k 40; 0: all tokens
    "top_p": 1.0,
    "seed": 0,
}


def package(ws: Workspace, name: str, checkpoint: Artifact, card: str) -> Artifact:
    """Publish what MLflow needs to load a checkpoint under a model's name; once per checkpoint."""
    config = {"name": name, "packages": requirements()}
    inputs = {WEIGHTS: checkpoint.fingerprint}
    fp = artifacts.fingerprint(Kind.MODEL, config, inputs, VERSION)
    with artifacts.workdir(ws, Kind.MODEL, name, fp, wait=True) as work:
        if found := artifacts.find(ws, Kind.MODEL, fp):
            return found
        with tempfile.TemporaryDirectory(dir=ws.state) as folder:
            save(checkpoint, Path(folder) / "model")
            for file in (Path(folder) / "model").iterdir():
                if file.is_file():
                    file.replace(work / file.name)
        (work / CARD).write_text(card)
        return artifacts.publish(
            ws,
            work,
            kind=Kind.MODEL,
            name=name,
            fingerprint=fp,
            config=config,
            inputs={WEIGHTS: checkpoint},
            counts={},
        )


def source(model: Artifact) -> str:
    """Return the address under which MLflow finds a packaged model."""
    return f"dvc:///{model.kind}/{model.name}/{model.fingerprint[:DIGITS]}"


@functools.cache
def requirements() -> list[str]:
    """Return what a process that loads the model must have installed."""
    return [f"{name}=={metadata.version(name)}" for name in ("textmill", *PACKAGES)]


def save(artifact: Artifact, out: Path) -> None:
    """Write an artifact as an MLflow pyfunc model without its weights; nothing is pickled."""
    import mlflow.pyfunc
    from mlflow.utils import requirements_utils

    # it would look through all files of all packages for the few that we name with their versions
    if getattr(requirements_utils, "_MODULES_TO_PACKAGES", True) is None:
        known = {name: [name] for name in ("textmill", *PACKAGES)}
        requirements_utils._MODULES_TO_PACKAGES = known  # type: ignore[assignment]
    # it tries to predict its example, and warns that it cannot without weights
    logging.getLogger("mlflow.models.signature").setLevel(logging.ERROR)
    tuned = artifact.kind == Kind.TUNED
    file = "pyfunc_tuned.py" if tuned else "pyfunc_model.py"
    about = task_model(artifact.path) if tuned else text_model()
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / WEIGHTS  # MLmodel names it; its files are shown there, not copied
        empty.mkdir()
        mlflow.pyfunc.save_model(
            path=str(out),
            python_model=str(Path(__file__).with_name(file)),
            artifacts={WEIGHTS: str(empty)},
            pip_requirements=requirements(),
            **about,
        )


def text_model() -> dict[str, Any]:
    """Return the example of a language model; its type hints are its signature."""
    return {"input_example": (EXAMPLE, EXAMPLE_PARAMS)}


def task_model(tuned: Path) -> dict[str, Any]:
    """Return the signature and the example of a fine-tuned model, from its task's fields.

    Raises:
        ValueError: a version of textmill that kept no example made it.
    """
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, DataType, Schema

    path = tuned / "example.json"
    if not path.exists():
        raise ValueError(f"{path} is not there: made by an older textmill; fine-tune again")
    example = json.loads(path.read_text())
    names = json.loads((tuned / "task.json").read_text())["labels"]
    # MLflow turns numbers and holes of a text column into text, silently, and names no row: the
    # model checks its rows itself, so every column comes to it as it is, or not at all.
    inputs: list[Any] = [ColSpec(AnyType(), name, required=False) for name in example]
    chances = [f"probability_{name}" for name in names or range(len(example.get("answers", ())))]
    outputs: list[Any] = [ColSpec(DataType.string, "label"), ColSpec(DataType.long, "index")]
    outputs += [ColSpec(DataType.double, name) for name in chances]
    return {
        "signature": ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs)),
        "input_example": pd.DataFrame([example]),
    }
