"""Generalisation against memorisation (GPT-2 paper, section 4; gpt2.md section 7).

Three measurements beside the table of modules/corpus/overlap.py: scores with and without the items
that overlap with the training text, the perplexity of training and held-out text (close to each
other where a model underfits: Figure 4), and the 8-gram overlap of what a model writes after
held-out beginnings, beside the overlap of how they really go on (Figure 5).
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from modules.corpus.bloom import Filter
from modules.corpus.overlap import HIGH, ngrams_of
from modules.corpus.token_file import read_held_out, read_spans, read_split
from modules.evaluation.ask import Subject
from modules.evaluation.config import MemoryConfig, ZeroShotConfig
from modules.evaluation.metrics import interval, perplexity
from modules.evaluation.score import generate_texts, score_groups
from modules.evaluation.spans import rolling_spans
from modules.evaluation.zero_shot import scores_of
from modules.files import Progress, silent
from modules.model.generate import GenerationConfig
from modules.task import Row, Score, Task

ENOUGH = 5  # items under which a score says nothing


def scores_by_overlap(
    rows: Sequence[Row],
    overlap: Sequence[Row],
    task: Task,
    config: ZeroShotConfig,
    positions: int,
) -> dict[str, list[Score]]:
    """Return a task's scores over all its items, those without overlap, with any, with much.

    Args:
        rows: of items/<task>.jsonl.zst (modules/evaluation/zero_shot.py).
        overlap: of items.jsonl.zst (modules/corpus/overlap.py); several items may be of one row.
    """
    shares = {
        row["id"]: row["in_corpus"] / max(row["ngrams"], 1)
        for row in overlap
        if row["task"] == task.name
    }
    share = [shares[owner(row["id"], shares)] for row in rows]
    kinds: dict[str, Any] = {
        "all": lambda x: True,
        "none": lambda x: x == 0,
        "any": lambda x: x > 0,
        "over 15 %": lambda x: x > HIGH,
    }
    found: dict[str, list[Score]] = {}
    for kind, fits in kinds.items():
        kept = [row for row, x in zip(rows, share, strict=True) if fits(x)]
        variants = {row["variant"] for row in rows}
        fewest = min(sum(row["variant"] == v for row in kept) for v in variants)
        found[kind] = scores_of(task, kept, config, positions) if fewest >= ENOUGH else []
    return found


def owner(item: str, rows: Mapping[str, Any]) -> str:
    """Return the id of the row that an item is of: its own, or what stands before its last slash.

    Raises:
        ValueError: there is no such row: the two were not made from the same file.
    """
    before = item.rpartition("/")[0]
    if item not in rows and before not in rows:
        raise ValueError(f"item {item}: the overlap has no such row; measure it on this data again")
    return item if item in rows else before


def split_perplexities(
    subject: Subject, tokens: Path, config: MemoryConfig
) -> dict[str, dict[str, float]]:
    """Return the perplexity per token of training and of held-out text (GPT-2 paper, Figure 4).

    Each is {value, low, high, documents, tokens}; the interval is from resampling the documents.
    """
    splits = {"train": read_split(tokens, "train"), "test": read_held_out(tokens)}
    found = {}
    for name, split in splits.items():
        texts = documents(tokens, split, config.documents)
        nats, counts = nats_of(subject, texts)
        low, high = interval(perplexity, nats, counts, seed=config.seed)
        value = perplexity(nats, counts)
        ends = {"value": value, "low": low, "high": high}
        found[name] = ends | {"documents": len(texts), "tokens": sum(counts)}
    return found


def nats_of(subject: Subject, texts: Sequence[list[int]]) -> tuple[list[float], list[int]]:
    """Return each text's negative log-likelihood in nats, and its tokens."""
    positions, eot = subject.positions, subject.tokenizer.eot
    windows = [rolling_spans(ids, eot, positions, positions) for ids in texts]
    scored = iter(score_groups(subject.model, [[span] for spans in windows for span in spans]))
    parts = [[next(scored)[0] for _ in spans] for spans in windows]
    nats = [-math.fsum(score.logprob for score in part) for part in parts]
    return nats, [sum(score.tokens for score in part) for part in parts]


def documents(tokens: Path, split: Any, count: int, shortest: int = 2) -> list[list[int]]:
    """Return the ids of documents evenly spread over a split, without end-of-text.

    Raises:
        ValueError: it has none that is long enough.
    """
    spans = [s for s in read_spans(tokens, split.split) if s.length > shortest]
    if not spans:
        raise ValueError(f"{tokens}: no document of {split.split} has over {shortest} tokens")
    places = np.unique(np.linspace(0, len(spans) - 1, min(count, len(spans))).round().astype(int))
    chosen = [spans[i] for i in places.tolist()]
    return [split.read(span.start, span.length - 1).tolist() for span in chosen]


def sample_overlap(
    subject: Subject,
    tokens: Path,
    found: Filter,
    config: MemoryConfig,
    *,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Return the overlap of samples and of real continuations with the training text."""
    beginning = int(config.context * subject.positions)
    new = subject.positions - beginning
    texts = documents(tokens, read_held_out(tokens), config.samples, beginning + new)
    ways = GenerationConfig(max_new_tokens=new, top_k=config.top_k, seed=config.seed)
    prompts = [ids[:beginning] for ids in texts]
    written = generate_texts(subject.model, subject.tokenizer, prompts, ways, progress=progress)
    real = [ids[beginning : beginning + new] for ids in texts]
    return {
        "context": beginning,
        "new_tokens": new,
        "top_k": config.top_k,
        "samples": summary([share_of(subject, ids, found) for ids in written]),
        "real": summary([share_of(subject, ids, found) for ids in real]),
    }


def share_of(subject: Subject, ids: list[int], found: Filter) -> float | None:
    """Return the share of a text's n-grams that the filter holds; None: it has none."""
    grams = ngrams_of([subject.tokenizer.decode(ids)], found.facts["ngram"])
    return float(found.contains(grams).mean()) if len(grams) else None


def summary(shares: Sequence[float | None]) -> dict[str, Any]:
    """Return what GPT-2's paper tells of such shares."""
    known = [share for share in shares if share is not None]
    if not known:
        return {"texts": 0, "median": None, "none": None, "under_1_percent": None}
    return {
        "texts": len(known),
        "median": median(known),
        "none": sum(share == 0 for share in known) / len(known),
        "under_1_percent": sum(share < 0.01 for share in known) / len(known),
    }
