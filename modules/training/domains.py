"""How well a finished model predicts each domain of its corpus's held-out documents.

A document's domain is its source: the host of a page, or the name of a ready-made text set. Every
document is read by itself, from end-of-text on, in windows as long as the training's
(GPT-2 paper, section 3.1: log-probability of a whole text over its units).
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.corpus.token_file import read_held_out, read_spans
from modules.evaluation.config import Precision
from modules.evaluation.score import score_groups
from modules.evaluation.spans import rolling_spans
from modules.model.base import Decoder
from modules.tokenizer import Tokenizer

MOST = 12  # domains named; the others are counted together
REST = "all others"
TOKENS = 2**20  # held-out tokens looked at, in the order of the corpus


@dataclass(frozen=True)
class HeldOut:
    """A held-out document: where it is from, how long, and its tokens without end-of-text."""

    domain: str
    bytes: int
    tokens: list[int]


def domain_scores(
    model: Decoder, tokenizer: Tokenizer, tokens: Path, *, context: int, precision: Precision
) -> list[dict[str, Any]]:
    """Return perplexity and bits per byte for each domain, the largest first, and for all."""
    rows = []
    for domain, texts in named_domains(list(held_out_texts(tokens, tokenizer))).items():
        spans = [
            span
            for text in texts
            for span in rolling_spans(text.tokens, tokenizer.eot, context, context)
        ]
        scored = score_groups(model, [[span] for span in spans], precision=precision)
        rows.append(row(domain, texts, -math.fsum(score.logprob for [score] in scored)))
    return [*rows, total(rows)] if rows else []


def held_out_texts(tokens: Path, tokenizer: Tokenizer) -> Iterator[HeldOut]:
    """Yield the texts of the split that judges finished models, up to TOKENS tokens."""
    split = read_held_out(tokens)
    for span in read_spans(tokens, split.split):
        if span.start >= TOKENS:
            return
        ids = split.read(span.start, span.length - 1).tolist()  # without end-of-text
        if ids:
            yield HeldOut(span.source or "unknown", len(tokenizer.decode_bytes(ids)), ids)


def named_domains(texts: list[HeldOut]) -> dict[str, list[HeldOut]]:
    """Return the texts of the domains with most tokens by name, and those of all others."""
    sizes: dict[str, int] = defaultdict(int)
    for text in texts:
        sizes[text.domain] += len(text.tokens)
    largest = sorted(sizes, key=lambda name: (-sizes[name], name))[:MOST]
    found: dict[str, list[HeldOut]] = {name: [] for name in largest}
    for text in texts:
        found.setdefault(text.domain if text.domain in largest else REST, []).append(text)
    return found


def row(domain: str, texts: list[HeldOut], nats: float) -> dict[str, Any]:
    """Return what is told of a domain."""
    tokens, size = sum(len(text.tokens) for text in texts), sum(text.bytes for text in texts)
    return numbers(domain, len(texts), tokens, size, nats)


def total(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what is told of all domains together."""
    documents, tokens, size = (
        sum(row[key] for row in rows) for key in ("documents", "tokens", "bytes")
    )
    return numbers("all", documents, tokens, size, math.fsum(row["nats"] for row in rows))


def numbers(domain: str, documents: int, tokens: int, size: int, nats: float) -> dict[str, Any]:
    """Return counts, perplexity per token and bits per byte (which no tokenizer changes)."""
    return {
        "domain": domain,
        "documents": documents,
        "tokens": tokens,
        "bytes": size,
        "nats": nats,
        "perplexity": math.exp(nats / tokens),
        "bits_per_byte": nats / math.log(2) / size,
    }
