"""Input transformations: a task's examples -> token sequences (GPT-1 paper, section 3.3).

Three tokens stand after the vocabulary: start, delimiter, extract (gpt1.md 4.4). One text is
S text E, a pair S premise D hypothesis E, multiple choice one sequence per answer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from modules.model.heads import ABSENT
from modules.task import Example, Format
from modules.tokenizer import Tokenizer
from modules.training.order import mix, permute

N_SPECIAL = 3
SPECIAL_NAMES = ("start", "delimiter", "extract")  # the release's order


@dataclass(frozen=True)
class Encoded:
    """One example as token ids: K sequences, and where to look for the answer."""

    id: str
    sequences: tuple[tuple[int, ...], ...]
    label: float  # an index, or a score
    cut: bool  # some text did not fit

    @property
    def length(self) -> int:
        """Tokens of the longest sequence."""
        return max(len(sequence) for sequence in self.sequences)

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(len(sequence) for sequence in self.sequences)


@dataclass(frozen=True)
class Batch:
    """Examples padded to one shape; `share` and `lm_share` are their parts of the step's means."""

    tokens: Tensor  # (B, K, T) int64
    extract: Tensor  # (B, K) int64, -1: no such sequence
    labels: Tensor  # (B,) int64, or scores
    share: float = 1.0
    lm_share: float = 1.0

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        return replace(
            self,
            tokens=self.tokens.to(device),
            extract=self.extract.to(device),
            labels=self.labels.to(device),
        )


def encode(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    form: Format,
    *,
    first: int,
    longest: int,
    truncate: str = "release",
) -> list[Encoded]:
    """Turn examples into sequences of at most `longest` tokens.

    Pairs: each segment keeps its first longest // 2 - 2 tokens, as in the release (gpt1.md 4.5);
    with truncate = longest_first the longer one is cut until the pair fits. One
    text keeps its first longest - 2. Multiple choice keeps the answer (only one of more than three
    quarters of the room is cut), and of document and question (one segment, the question last) as
    many of the last tokens as fit; the release has no three-part inputs: our choice.

    Args:
        first: id of the start token; delimiter and extract follow.
    """
    flat = [text for e in examples for segments in e.texts for text in segments]
    distinct = sorted(set(flat))  # both orders of a pair, the same document for each answer
    ids = dict(zip(distinct, tokenizer.encode_batch(distinct), strict=True))
    out = []
    for example in examples:
        pieces = [[ids[text] for text in segments] for segments in example.texts]
        kept = [fit(p, form, longest, truncate) for p in pieces]
        sequences = tuple(join(segments, first) for segments in kept)
        out.append(Encoded(example.id, sequences, example.label, cut=kept != pieces))
    return out


def fit(
    segments: list[list[int]], form: Format, longest: int, truncate: str = "release"
) -> list[list[int]]:
    """Cut segments so that they fit in `longest` tokens with their special tokens."""
    if form == "multiple_choice":
        context, answer = segments
        answer = answer[: (longest - N_SPECIAL) * 3 // 4]
        room = longest - N_SPECIAL - len(answer)
        return [context[max(0, len(context) - room) :], answer]
    if len(segments) == 1:
        return [segments[0][: longest - 2]]
    if truncate == "longest_first":
        return shorten(segments, longest - N_SPECIAL)
    each = longest // 2 - 2
    return [segment[:each] for segment in segments]


def shorten(pair: list[list[int]], room: int) -> list[list[int]]:
    """Cut the end of the longer of two segments, of both once they are equal, to fit in `room`."""
    a, b = (len(segment) for segment in pair)
    half = room // 2
    most_b = max(half, room - a)
    most_a = room - min(b, most_b)
    return [pair[0][:most_a], pair[1][:most_b]]


def join(segments: list[list[int]], first: int) -> tuple[int, ...]:
    """Return start, the segments with delimiters between them, extract."""
    start, delimiter, extract = first, first + 1, first + 2
    ids = [start]
    for number, segment in enumerate(segments):
        ids += [delimiter, *segment] if number else segment
    return (*ids, extract)


def collate(examples: Sequence[Encoded], *, share: float = 1.0, lm_share: float = 1.0) -> Batch:
    """Pad examples on the right with id 0 (the release's) into one batch."""
    k = max(len(e.sequences) for e in examples)
    tokens = np.zeros((len(examples), k, max(e.length for e in examples)), dtype=np.int64)
    extract = np.full((len(examples), k), ABSENT, dtype=np.int64)
    for i, example in enumerate(examples):
        for j, ids in enumerate(example.sequences):
            tokens[i, j, : len(ids)] = ids
            extract[i, j] = len(ids) - 1
    labels = torch.tensor([e.label for e in examples])  # int64, or float32 for scores
    return Batch(torch.from_numpy(tokens), torch.from_numpy(extract), labels, share, lm_share)


def sample(examples: Sequence[Encoded], n: int | None, seed: int) -> Sequence[Encoded]:
    """Return n examples drawn by the seed, or all."""
    if n is None or n >= len(examples):
        return examples
    order = permute(np.arange(n), len(examples), mix(seed, 5))
    return [examples[i] for i in np.sort(order)]


def within(examples: Sequence[Encoded], tokens: int | None, seed: int) -> Sequence[Encoded]:
    """Return as many examples, drawn by the seed (at least one), as hold at most `tokens`."""
    if tokens is None:
        return examples
    order = permute(np.arange(len(examples)), len(examples), mix(seed, 6))
    sizes = np.cumsum([examples[i].tokens for i in order])
    n = max(1, int(np.searchsorted(sizes, tokens, side="right")))
    return [examples[i] for i in np.sort(order[:n])]


def runs(examples: Sequence[Encoded], limit: int) -> Iterator[list[Encoded]]:
    """Cut examples, in their order, into runs of at most `limit` tokens each."""
    run: list[Encoded] = []
    size = 0
    for example in examples:
        if run and size + example.tokens > limit:
            yield run
            run, size = [], 0
        run.append(example)
        size += example.tokens
    if run:
        yield run


def micro_batches(
    examples: Sequence[Encoded],
    limit: int,
    *,
    of: Sequence[Encoded] | None = None,
    ranks: int = 1,
    lm_average: str = "sequence",
) -> list[Batch]:
    """Split one step's examples, by length, into batches of at most `limit` tokens.

    The batch stays the random one that was drawn; only its parts are computed apart, weighted so
    that they add up to the mean over examples (task) and over sequences or tokens (LM).

    Args:
        of: the whole batch, where `examples` are one rank's part of it; the mean over the `ranks`
            is then the mean over the batch.
    """
    ordered, of = sorted(examples, key=lambda e: e.length), of or examples
    n_lm = lm_count(of, lm_average)
    return [
        collate(
            run,
            share=ranks * len(run) / len(of),
            lm_share=ranks * lm_count(run, lm_average) / n_lm,
        )
        for run in runs(ordered, limit)
    ]


def lm_count(examples: Sequence[Encoded], average: str) -> int:
    """Return how many sequences, or targets, the LM loss's mean over these examples is of."""
    lengths = [len(ids) for e in examples for ids in e.sequences]
    return len(lengths) if average == "sequence" else sum(lengths) - len(lengths)
