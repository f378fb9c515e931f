"""pretrain: token shards -> checkpoint (GPT-1 paper, section 3.1; GPT-2 paper, section 2)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow

from flows.stage import Stage, stage
from flows.trained import show_checkpoint
from flows.training import train
from modules import presets
from modules.files import Progress
from modules.run import PretrainConfig
from registry import artifacts
from registry.artifacts import Artifact
from registry.tables import Kind


@flow(name="pretrain", flow_run_name="pretrain-{name}")
def pretrain(
    config: PretrainConfig = presets.SAMPLE.pretrain,
    name: str = "sample",
    tokens: str = "tokens/sample",
    base: str = "",
) -> str:
    """Train a decoder on token shards as a language model.

    Args:
        config: The model, how it is optimised and for how long.
        name: What the checkpoint will be called.
        tokens: Which tokens to train on: kind/name for the newest, or a fingerprint. Several, of
            one tokenizer and with commas between, are mixed as config.mixture says.
        base: A checkpoint whose weights are gone on with, by name or fingerprint; none: new ones.

    Returns:
        The fingerprint of the checkpoint.

    Raises:
        ValueError: two of the tokens have one name.
    """
    with stage("pretrain", config.model_dump(mode="json")) as at:
        data, *more = (artifacts.checkout(at.workspace, part) for part in tokens.split(","))
        if len({artifact.name for artifact in (data, *more)}) <= len(more):
            raise ValueError(
                f"tokens {tokens}: give each corpus another name, so that it has a weight"
            )
        tokenizer = artifacts.checkout(at.workspace, data.inputs["tokenizer"])
        begin = artifacts.checkout(at.workspace, base) if base else None
        made = make_checkpoint(at, config, name, [data, *more], tokenizer, base=begin)
        show_checkpoint(at, made, data)
        return made.fingerprint


def make_checkpoint(
    at: Stage,
    config: PretrainConfig,
    name: str,
    tokens: Sequence[Artifact],
    tokenizer: Artifact,
    *,
    base: Artifact | None = None,
) -> Artifact:
    """Train on one corpus, or on several mixed by their names, from scratch or from `base`."""
    data, *more = tokens
    mixed = {artifact.name: artifact.path for artifact in tokens}
    begun = {"base": base} if base else {}

    def step(out: Path, progress: Progress) -> dict[str, Any]:
        inputs = {"tokens": mixed if more else data.path, "tokenizer": tokenizer.path}
        inputs |= {role: artifact.path for role, artifact in begun.items()}
        return train(at, "pretrain", config, inputs, out, progress)

    return at.make(
        Kind.CHECKPOINT,
        name,
        step,
        config=config,
        inputs={"tokens": data, "tokenizer": tokenizer}
        | {f"tokens-{other.name}": other for other in more}
        | begun,
        version=3,  # 2: the held-out loss is of the test split; 3: and told by domain
    )
