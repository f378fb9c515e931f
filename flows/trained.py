"""What is told of a finished checkpoint: curves, held-out loss by domain, what it writes."""

import json
import re
from collections.abc import Mapping
from math import exp
from pathlib import Path
from textwrap import fill
from typing import Any

from flows.charts import bars
from flows.curves import learning_curve
from flows.page import Block, Picture, Quote, Quotes, Shown, as_markdown
from flows.stage import Stage, show
from modules.files import read_jsonl
from modules.training.events import read_events
from registry.artifacts import Artifact

LINE = 88  # characters of a text; Prefect's pages do not wrap
PROMPTS = ("The people of the United States", "And the LORD said unto", "This module defines")


def show_checkpoint(at: Stage, checkpoint: Artifact, tokens: Artifact) -> None:
    """Show a checkpoint in the Prefect UI; if it was made just now, in MLflow too."""
    facts, floors = training_facts(checkpoint), floors_of(tokens)
    state = at.workspace.state / "training" / checkpoint.path.parent.name
    events = read_events(state / f"{checkpoint.path.name}.jsonl")  # none where it came from afar
    curve = learning_curve(
        list(read_jsonl(checkpoint.path / "curve.jsonl")),
        floors,
        events=events,
        skipped=facts["skipped_steps"],
    )
    domains = domain_picture(facts)
    blocks: list[Block] = [
        Picture("How it learnt", curve),
        language_model(facts, floors, tokens),
        domain_table(facts),
        *([Picture("Bits per byte by domain", domains)] if domains else []),
        what_it_writes(checkpoint),
    ]
    title = f"Checkpoint {checkpoint.name}"
    page = as_markdown(title, blocks)
    show("pretraining", page, "Learning curves, held-out loss by domain, samples")
    if checkpoint in at.made:
        at.log(domain_metrics(facts))
        at.attach(curve, "learning-curve.png")
        if domains:
            at.attach(domains, "domains.png")


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


def language_model(
    facts: Mapping[str, Any], floors: Mapping[str, float], tokens: Artifact
) -> Shown:
    """Compare the held-out loss with n-grams of the same tokens."""
    rows = [("this model", facts["held_out_loss"]), *sorted(floors.items(), key=lambda row: row[1])]
    return Shown(
        "Language model, held-out tokens of its own corpus",
        ["model", "nats a token", "perplexity a token"],
        [[name, f"{nats:.3f}", f"{exp(nats):.1f}"] for name, nats in rows],
        f"{facts['steps']:,} steps, {facts['tokens']:,} tokens read; the corpus has "
        f"{tokens.counts.get('train.tokens', 0):,} training tokens.",
    )


def domain_table(facts: Mapping[str, Any]) -> Shown:
    """Show how well each domain of the held-out text is predicted."""
    rows = [
        [
            row["domain"],
            f"{row['documents']:,}",
            f"{row['tokens']:,}",
            f"{row['perplexity']:,.1f}",
            f"{row['bits_per_byte']:.3f}",
        ]
        for row in facts.get("domains", [])
    ]
    return Shown(
        "Held-out text by domain",
        ["domain", "documents", "tokens", "perplexity a token", "bits per byte"],
        rows,
        "Each document is read by itself. Bits per byte compare models of other tokenizers too.",
    )


def domain_picture(facts: Mapping[str, Any]) -> bytes | None:
    """Draw bits per byte of each domain, or nothing where there is none."""
    found = {row["domain"]: row["bits_per_byte"] for row in facts.get("domains", [])}
    return bars(found, "bits per byte (lower is better)") if found else None


def domain_metrics(facts: Mapping[str, Any]) -> dict[str, float]:
    """Return each domain's numbers under names that MLflow allows."""
    return {
        f"{key}/{re.sub(r'[^A-Za-z0-9_. -]', '_', row['domain'])}": row[key]
        for row in facts.get("domains", [])
        for key in ("perplexity", "bits_per_byte")
    }


def what_it_writes(checkpoint: Artifact) -> Quotes:
    """Show how the model goes on from a few beginnings."""
    pairs = samples(checkpoint.path)
    return Quotes("What it writes", [Quote([prompt], fill(text, LINE)) for prompt, text in pairs])


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
