"""pretrain: token shards -> checkpoint (GPT-1 paper, section 3.1; GPT-2 paper, section 2)."""

import json
from pathlib import Path
from typing import Any

from prefect import flow

from flows.charts import inline, learning_curve, markdown_table
from flows.stage import show, stage
from flows.training import train
from modules import presets
from modules.files import Progress, read_jsonl
from modules.run import PretrainConfig
from registry import artifacts
from registry.artifacts import Artifact
from registry.tables import Kind

PROMPTS = ("The people of the United States", "And the LORD said unto", "This module defines")


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
        tokens: Which tokens to train on: kind/name for the newest, or a fingerprint. Several, of
            one tokenizer and with commas between, are mixed as config.mixture says.

    Returns:
        The fingerprint of the checkpoint.

    Raises:
        ValueError: two of the tokens have one name.
    """
    with stage("pretrain", config.model_dump(mode="json")) as at:
        data, *more = (artifacts.checkout(at.workspace, part) for part in tokens.split(","))
        mixed = {artifact.name: artifact.path for artifact in (data, *more)}
        if len(mixed) <= len(more):
            raise ValueError(
                f"tokens {tokens}: give each corpus another name, so that it has a weight"
            )
        tokenizer = artifacts.checkout(at.workspace, data.inputs["tokenizer"])

        def step(out: Path, progress: Progress) -> dict[str, Any]:
            inputs = {"tokens": mixed if more else data.path, "tokenizer": tokenizer.path}
            return train(at, "pretrain", config, inputs, out, progress)

        made = at.make(
            Kind.CHECKPOINT,
            name,
            step,
            config=config,
            inputs={"tokens": data, "tokenizer": tokenizer}
            | {f"tokens-{other.name}": other for other in more},
            version=2,  # 2: the held-out loss is of the test split
        )
        show_checkpoint(made, data)
        return made.fingerprint


def floors_of(tokens: Artifact) -> dict[str, float]:
    """Return the n-gram cross-entropies of the held-out tokens, nats a token."""
    return {
        name.removesuffix("_nats"): float(value)
        for name, value in tokens.counts.items()
        if name.endswith("_nats")
    }


def training_facts(checkpoint: Artifact) -> dict[str, Any]:
    """Return training.json of a checkpoint."""
    facts: dict[str, Any] = json.loads((checkpoint.path / "training.json").read_text())
    return facts


def show_checkpoint(checkpoint: Artifact, tokens: Artifact) -> None:
    """Show the learning curve and a few continuations."""
    facts, floors = training_facts(checkpoint), floors_of(tokens)
    curve = learning_curve(list(read_jsonl(checkpoint.path / "curve.jsonl")), floors)
    rows = [("this model", facts["held_out_loss"]), *sorted(floors.items(), key=lambda row: row[1])]
    show(
        "pretraining",
        f"# Checkpoint {checkpoint.name}\n\n{inline(curve, 'learning curve')}\n\n"
        + markdown_table(["held-out loss of", "nats a token"], rows)
        + "\n\n## What it writes\n\n"
        + "\n\n".join(f"> **{prompt}**{text}" for prompt, text in samples(checkpoint.path)),
        "Learning curve, held-out loss beside n-grams, samples",
    )


def samples(checkpoint: Path, tokens: int = 60) -> list[tuple[str, str]]:
    """Return (prompt, continuation) pairs: top-k 40 as in the GPT-2 paper's appendix, seed 0."""
    from modules.model.checkpoint import load
    from modules.model.generate import GenerationConfig, generate
    from modules.tokenizer import load as load_tokenizer

    tokenizer = load_tokenizer(checkpoint / "tokenizer")
    config = GenerationConfig(max_new_tokens=tokens, temperature=1.0, top_k=40, seed=0)
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    texts = generate(load(checkpoint), prompts, config, eot=tokenizer.eot)
    return [
        (prompt, tokenizer.decode(ids).replace("\n", " "))
        for prompt, ids in zip(PROMPTS, texts, strict=True)
    ]
