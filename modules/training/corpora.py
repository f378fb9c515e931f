"""The token directories of a run: rows to learn from, held-out windows to be judged by."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modules.corpus.token_file import TokenFile, read_held_out, read_spans, read_split
from modules.files import sha256
from modules.training.config import PretrainConfig
from modules.training.mixture import Mixture
from modules.training.packing import Packed
from modules.training.windows import Rows, Stream, held_out

Spans = tuple[np.ndarray, np.ndarray]
"""Starts and lengths of documents in a split."""


def named(tokens: Path | Mapping[str, Path], config: PretrainConfig) -> dict[str, Path]:
    """Return the token directories by name, in the order of names; a single one needs none.

    Raises:
        ValueError: the mixture names others.
    """
    paths = {"tokens": tokens} if isinstance(tokens, Path) else dict(sorted(tokens.items()))
    if config.mixture and set(config.mixture) != set(paths):
        raise ValueError(f"mixture weighs {sorted(config.mixture)}, the tokens are {list(paths)}")
    return paths


def identities(paths: Mapping[str, Path]) -> list[str]:
    """Return what a run's fingerprint takes of each corpus: its index, with its name of several."""
    hashes = {name: sha256(path / "index.json") for name, path in paths.items()}
    return [f"{name} {digest}" if len(hashes) > 1 else digest for name, digest in hashes.items()]


@dataclass(frozen=True)
class HeldOut:
    """Sets of windows (N, T + 1) by name; those with a weight make up the mean."""

    windows: dict[str, Tensor] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)

    def numbers(self, losses: Mapping[str, float]) -> dict[str, float]:
        """Return val_loss, the mean by weight, and val_loss/NAME of domains and several corpora."""
        weights = {name: self.weights[name] for name in losses if name in self.weights}
        if not weights:
            return {}
        mean = sum(losses[name] * weight for name, weight in weights.items())
        own = dict(losses)
        if len(self.weights) == 1:  # the only corpus's own loss is the mean
            own = {name: loss for name, loss in losses.items() if name not in weights}
        named_losses = {f"val_loss/{name}": loss for name, loss in own.items()}
        return {"val_loss": mean / sum(weights.values()), **named_losses}


class Corpora:
    """Token directories, opened for training.

    Attributes:
        rows: the training rows of all of them.
        weights: the share of each in the rows: the mixture's, or by size.
    """

    def __init__(self, paths: Mapping[str, Path], config: PretrainConfig) -> None:
        """Open the training splits, every byte checked.

        Raises:
            FileNotFoundError, ValueError: a shard is missing or damaged, or a split has no row.
        """
        self.paths, self.config = paths, config
        kind = Stream if config.sampling == "windows" else Packed
        self.sources: dict[str, Rows] = {
            name: kind(read_split(path, "train", verify=True), config.window, config.seed)
            for name, path in paths.items()
        }
        weights = config.mixture or {name: rows.per_epoch for name, rows in self.sources.items()}
        self.weights = {name: weights[name] / sum(weights.values()) for name in paths}
        sources = list(self.sources.values())
        self.rows = Mixture(sources, list(self.weights.values())) if len(paths) > 1 else sources[0]

    def epochs(self, step: int) -> dict[str, float]:
        """Return how often each corpus has been read before a step."""
        rows = self.config.micro_batches_before(step) * self.config.batch_size
        return {
            name: round(rows * self.weights[name] / source.per_epoch, 4)
            for name, source in self.sources.items()
        }

    def held_out(self, n: int, *, last: bool = False) -> HeldOut:
        """Return up to n held-out windows of each corpus that has any.

        Args:
            last: of the split that judges the finished model, instead of `val`.
        """
        splits = {
            name: read_held_out(path) if last else read_split(path, "val")
            for name, path in self.paths.items()
        }
        found = {name: held_out(split, self.config.window, n) for name, split in splits.items()}
        for name, split in splits.items():
            before = f"{name}/" if len(splits) > 1 else ""
            for source, spans in largest_sources(split, self.config.val_domains).items():
                found[before + source] = rows_of(split, spans, self.config.window, n)
        return HeldOut({k: v for k, v in found.items() if v is not None}, self.weights)


def largest_sources(tokens: TokenFile, n: int) -> dict[str, Spans]:
    """Return starts and lengths of the documents of the n sources with the most tokens."""
    found: dict[str, list[tuple[int, int]]] = {}
    for span in read_spans(tokens.directory, tokens.split) if n else ():
        if span.source:
            found.setdefault(span.source, []).append((span.start, span.length))
    largest = sorted(
        found, key=lambda source: (-sum(length for _, length in found[source]), source)
    )
    pairs = {source: np.array(found[source]) for source in largest[:n]}
    return {source: (pair[:, 0], pair[:, 1]) for source, pair in pairs.items()}


def rows_of(tokens: TokenFile, spans: Spans, context: int, n: int) -> Tensor:
    """Return up to n rows (n, context + 1) of these documents, packed, evenly spread over them."""
    packed = Packed(tokens, context, 0, spans)
    places = np.linspace(0, packed.per_epoch - 1, min(n, packed.per_epoch)).round()
    return torch.from_numpy(packed.read(places.astype(np.int64)))
