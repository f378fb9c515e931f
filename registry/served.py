"""What MLflow serves: a checkpoint or tuned checkpoint as a pyfunc model, code by file."""

import json
from importlib import metadata
from pathlib import Path
from typing import Any

from registry.artifacts import Artifact
from registry.tables import Kind

PACKAGES = ("torch", "safetensors", "tiktoken", "mlflow", "pandas", "pydantic", "zstandard")
EXAMPLE = ["The quick brown fox"]
EXAMPLE_PARAMS: dict[str, Any] = {
    "mode": "generate",
    "max_new_tokens": 32,
    "temperature": 1.0,
    "top_k": 40,  # GPT-2 paper, section 3.8 and appendix: samples with top-k 40; 0: all tokens
    "top_p": 1.0,
    "seed": 0,
}


def save(artifact: Artifact, out: Path) -> None:
    """Write an artifact as an MLflow pyfunc model: weights as safetensors, nothing pickled."""
    import mlflow.pyfunc

    requirements = [f"{name}=={metadata.version(name)}" for name in PACKAGES]
    tuned = artifact.kind == Kind.TUNED
    file = "pyfunc_tuned.py" if tuned else "pyfunc_model.py"
    about = task_model(artifact.path) if tuned else text_model()
    mlflow.pyfunc.save_model(
        path=str(out),
        python_model=str(Path(__file__).with_name(file)),
        artifacts={"checkpoint": str(artifact.path)},
        pip_requirements=[f"textmill=={metadata.version('textmill')}", *requirements],
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
