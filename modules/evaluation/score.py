"""The three ways to ask a model: how likely is this continuation, how likely is this text, go on.

Texts are cut into spans: tokens of which the last few are scored, given those before. Spans are
batched by length, logits are made at scored positions only, and candidates that share a long
context read it once, through the model's cache. None of that changes a number by more than
rounding. B rows, T positions, C features, V vocabulary, N scored positions.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.evaluation.config import Precision
from modules.evaluation.spans import Span, encode_pair, pair_spans, rolling_spans
from modules.files import Progress, silent
from modules.model.base import Decoder, wide
from modules.model.generate import GenerationConfig, generate
from modules.tokenizer import Tokenizer

LOGITS = 2**24  # logits held at once: 64 MB in float32
SHARE = 128  # saved positions from which one more pass for a shared context pays


@dataclass(frozen=True)
class SpanScore:
    """What a model says about a span: log-probability in nats, and per token if it is the best."""

    logprob: float
    greedy: tuple[bool, ...]
    dropped: int

    @property
    def tokens(self) -> int:
        """How many tokens were scored."""
        return len(self.greedy)


def choice_logprobs(
    model: Decoder,
    tokenizer: Tokenizer,
    groups: Sequence[Sequence[tuple[str, str]]],
    *,
    batch_tokens: int = 8192,
    precision: Precision = "float32",
    progress: Progress = silent,
) -> list[list[SpanScore]]:
    """Return log P(continuation | context) of each pair; a group is the candidates of one item.

    Contexts too long for the model lose their beginning, all of a group the same number of tokens.
    """
    spans = [
        pair_spans([encode_pair(tokenizer, *pair) for pair in group], model.config.n_positions)
        for group in groups
    ]
    return score_groups(
        model, spans, batch_tokens=batch_tokens, precision=precision, progress=progress
    )


def rolling_logprobs(
    model: Decoder,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    stride: int,
    batch_tokens: int = 8192,
    precision: Precision = "float32",
    progress: Progress = silent,
) -> list[tuple[float, int]]:
    """Return (log P in nats, tokens) of each whole text."""
    positions = model.config.n_positions
    windows = [
        rolling_spans(tokenizer.encode(text), tokenizer.eot, positions, stride) for text in texts
    ]
    flat = [[span] for spans in windows for span in spans]
    scored = iter(
        score_groups(model, flat, batch_tokens=batch_tokens, precision=precision, progress=progress)
    )
    totals = []
    for spans in windows:
        parts = [next(scored)[0] for _ in spans]
        totals.append((sum(p.logprob for p in parts), sum(p.tokens for p in parts)))
    return totals


def generate_texts(
    model: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[list[int]],
    config: GenerationConfig,
    *,
    stop_at_line_end: bool = False,
    precision: Precision = "float32",
    progress: Progress = silent,
) -> list[list[int]]:
    """Continue each prompt; with `stop_at_line_end` a token with a line end in it is the last."""
    stop = line_end_tokens(tokenizer) if stop_at_line_end else None
    found: list[list[int]] = []
    step = 8 * config.batch_size  # generate() sorts by length within a call
    for start in range(0, len(prompts), step):
        keys = range(start, min(start + step, len(prompts)))
        with autocast(model, precision):
            part = [prompts[i] for i in keys]
            found += generate(model, part, config, stop, tokenizer.eot, keys)
        progress(len(found), len(prompts), "continued")
    return found


def line_end_tokens(tokenizer: Tokenizer) -> list[list[int]]:
    """Return every token that holds a line end, as one-token stop sequences."""
    ids = range(tokenizer.n_vocab)
    return [[i] for i in ids if i != tokenizer.eot and b"\n" in tokenizer.decode_bytes([i])]


def autocast(model: Decoder, precision: Precision) -> AbstractContextManager[Any]:
    """Return the context for products in bfloat16, or nothing for float32."""
    if precision == "bfloat16":
        return torch.autocast(model.device.type, dtype=torch.bfloat16)
    return nullcontext()


@torch.no_grad()
def score_groups(
    model: Decoder,
    groups: Sequence[Sequence[Span]],
    *,
    batch_tokens: int = 8192,
    precision: Precision = "float32",
    progress: Progress = silent,
) -> list[list[SpanScore]]:
    """Score spans; those of a group read their common beginning once where that pays."""
    out: list[list[SpanScore | None]] = [[None] * len(group) for group in groups]
    total, done = sum(len(group) for group in groups), 0
    shared = {i: n for i, group in enumerate(groups) if (n := shared_length(group))}
    single = [
        (i, k) for i, group in enumerate(groups) if i not in shared for k in range(len(group))
    ]
    was_training = model.training
    model.eval()
    with autocast(model, precision):
        for keys in batches(single, lambda key: groups[key[0]][key[1]].read, batch_tokens):
            spans = [groups[i][k] for i, k in keys]
            for (i, k), score in zip(keys, score_batch(model, spans), strict=True):
                out[i][k] = score
            progress(done := done + len(keys), total, "scored")
        for chosen in shared_batches(groups, shared, batch_tokens, model.config.n_positions):
            scores = iter(
                score_shared(model, [groups[i] for i in chosen], [shared[i] for i in chosen])
            )
            for i in chosen:
                out[i] = [next(scores) for _ in groups[i]]
            progress(done := done + sum(len(groups[i]) for i in chosen), total, "scored")
    model.train(was_training)
    return [[score for score in group if score is not None] for group in out]


def shared_length(group: Sequence[Span]) -> int:
    """Return how many first tokens of a group are worth reading once (0: none)."""
    limit = min(span.start for span in group)
    first, *others = [span.tokens for span in group]
    n = next(
        (i for i in range(limit) if any(tokens[i] != first[i] for tokens in others)), max(limit, 0)
    )
    return n if n * (len(group) - 1) >= SHARE else 0


def batches(keys: Sequence[Any], length: Any, batch_tokens: int) -> Iterator[list[Any]]:
    """Yield keys of like length together, longest first, at most batch_tokens with padding."""
    batch: list[Any] = []
    for key in sorted(keys, key=lambda key: -length(key)):
        if batch and (len(batch) + 1) * length(batch[0]) > batch_tokens:
            yield batch
            batch = []
        batch.append(key)
    if batch:
        yield batch


def shared_batches(
    groups: Sequence[Sequence[Span]], shared: dict[int, int], batch_tokens: int, positions: int
) -> Iterator[list[int]]:
    """Yield groups to read together; prefix and rest, both padded, stay within the positions."""
    rest = {i: max(span.read for span in groups[i]) - n for i, n in shared.items()}
    batch: list[int] = []
    for i in sorted(shared, key=lambda i: (-rest[i], -shared[i])):
        trial = [*batch, i]
        prefix, longest = max(shared[j] for j in trial), rest[trial[0]]
        padded = len(trial) * prefix + sum(len(groups[j]) for j in trial) * longest
        if batch and (prefix + longest > positions or padded > batch_tokens):
            yield batch
            trial = [i]
        batch = trial
    if batch:
        yield batch


def score_batch(model: Decoder, spans: Sequence[Span]) -> list[SpanScore]:
    """Score spans in one pass."""
    tokens = pad([span.tokens[:-1] for span in spans], model.device)
    return read_scores(model, model(tokens), spans, [0] * len(spans))


def score_shared(
    model: Any, groups: Sequence[Sequence[Span]], shared: Sequence[int]
) -> list[SpanScore]:
    """Read each group's first tokens once, then the rest of each of its spans."""
    spans = [span for group in groups for span in group]
    owner = [g for g, group in enumerate(groups) for _ in group]
    rests = [span.tokens[shared[g] : -1] for span, g in zip(spans, owner, strict=True)]
    cache = model.new_cache(len(groups), max(shared) + max(map(len, rests)))
    first = pad(
        [group[0].tokens[:n] for group, n in zip(groups, shared, strict=True)], model.device
    )
    model(first, cache, list(shared))
    rows = cache.take(owner)
    hidden = model(pad(rests, model.device), rows, [len(rest) for rest in rests])  # (B, T, C)
    return read_scores(model, hidden, spans, [shared[g] for g in owner])


def pad(rows: Sequence[list[int]], device: torch.device) -> Tensor:
    """Stack rows, padded on the right (causal attention never looks there)."""
    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)


def read_scores(
    model: Decoder, hidden: Tensor, spans: Sequence[Span], offsets: Sequence[int]
) -> list[SpanScore]:
    """Turn features (B, T, C) into scores; row b's position 0 is its token offsets[b]."""
    width = hidden.shape[1]
    at = [
        b * width + position - offset
        for b, (span, offset) in enumerate(zip(spans, offsets, strict=True))
        for position in range(span.start, span.read)
    ]
    targets = [token for span in spans for token in span.tokens[-span.scored :]]
    rows = hidden.flatten(0, 1).index_select(0, torch.tensor(at, device=hidden.device))  # (N, C)
    logprobs, greedy = token_logprobs(model, rows, torch.tensor(targets, device=hidden.device))
    out, start = [], 0
    for span in spans:
        part = slice(start, start + span.scored)
        out.append(SpanScore(sum(logprobs[part]), tuple(greedy[part]), span.dropped))
        start += span.scored
    return out


def token_logprobs(model: Decoder, rows: Tensor, targets: Tensor) -> tuple[list[float], list[bool]]:
    """Return log P of each target and whether it is the most probable token, in chunks.

    Logits are float32 at least: GPT-2's are around -100, where bfloat16's steps are 0.5.
    """
    logprobs: list[float] = []
    greedy: list[bool] = []
    step = max(1, LOGITS // model.config.vocab_size)
    with torch.autocast(rows.device.type, enabled=False):
        for start in range(0, len(rows), step):
            target = targets[start : start + step]  # (n,)
            hidden = rows[start : start + step]
            logits = model.logits(hidden.to(wide(hidden.dtype)))  # (n, V)
            logprobs += (-F.cross_entropy(logits, target, reduction="none")).tolist()
            greedy += (logits.gather(1, target[:, None])[:, 0] >= logits.amax(1)).tolist()
    return logprobs, greedy
