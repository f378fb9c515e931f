"""pretrain: token shards -> checkpoint (GPT-1 paper, section 3.1; GPT-2 paper, section 2)."""

from pathlib import Path
from typing import Any

from prefect import flow

from flows.stage import stage
from flows.trained import show_checkpoint
from flows.training import train
from modules import presets
from modules.files import Progress
from modules.run import PretrainConfig
from registry import artifacts
from registry.tables import Kind


@flow(name="pretrain", flow_run_name="pretrain-{name}")
def pretrain(
    config: PretrainConfig = presets.SAMPLE.pretrain,
    name: str = "sample",
    tokens: str = "tokens/sample",
) -> str:
    """Train a decoder on token shards as a language model.

    Args:
        config: The model, how it is optimised and for how long.
        name: What the checkpoint will be called.
        tokens: Which tokens to train on: kind/name for the newest, or a fingerprint.

    Returns:
        The fingerprint of the checkpoint.
    """
    with stage("pretrain", config.model_dump(mode="json")) as at:
        data = artifacts.checkout(at.workspace, tokens)
        documents = artifacts.checkout(at.workspace, data.inputs["documents"], verify=False)
        tokenizer = artifacts.checkout(at.workspace, data.inputs["tokenizer"])

        def step(out: Path, progress: Progress) -> dict[str, Any]:
            inputs = {
                "tokens": data.path,
                "tokenizer": tokenizer.path,
                "documents": documents.path,  # only to tell the held-out text's domains apart
            }
            return train(at, "pretrain", config, inputs, out, progress)

        made = at.make(
            Kind.CHECKPOINT,
            name,
            step,
            config=config,
            inputs={"tokens": data, "tokenizer": tokenizer},
            version=3,  # 2: the held-out loss is of the test split; 3: and told by domain
        )
        show_checkpoint(at, made, data)
        return made.fingerprint
