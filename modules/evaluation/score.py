"""The three ways to ask a model: how likely is this continuation, how likely is this text, go on.

Texts are cut into spans: tokens of which the last few are scored, given those before. Spans are
batched by length, logits are made at scored positions only, and candidates read what they have in
common once (modules/evaluation/reading.py). None of that changes a number by more than rounding.
B rows, T positions, C features, V vocabulary, N scored positions.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from modules.evaluation.config import Precision
from modules.evaluation.journal import Remember, afresh
from modules.evaluation.reading import Reading, begins, plan, read
from modules.evaluation.spans import Span, encode_pair, pair_spans, rolling_spans
from modules.files import Progress, silent
from modules.model.base import Decoder, wide
from modules.model.generate import GenerationConfig, generate
from modules.tokenizer import Tokenizer

LOGITS = {"cpu": 2**23}  # logits held at once: 32 MB, which malloc keeps, so no page is new
MORE_LOGITS = 2**27  # on other devices: 512 MB
BATCH_TOKENS = 1024  # of a CPU


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
    cut_alike: bool = True,
    batch_tokens: int = BATCH_TOKENS,
    precision: Precision = "float32",
    remember: Remember = afresh,
    progress: Progress = silent,
) -> list[list[SpanScore]]:
    """Return log P(continuation | context) of each pair; a group is the candidates of one item.

    Contexts too long for the model lose their beginning, all of a group the same number of tokens;
    not `cut_alike`: each as many as it must (lm-evaluation-harness).
    """
    positions = model.config.n_positions
    spans = [
        pair_spans([encode_pair(tokenizer, *pair) for pair in group], positions, alike=cut_alike)
        for group in groups
    ]
    return score_groups(
        model,
        spans,
        batch_tokens=batch_tokens,
        precision=precision,
        remember=remember,
        progress=progress,
    )


def rolling_logprobs(
    model: Decoder,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    stride: int,
    before: Sequence[str] = (),
    batch_tokens: int = BATCH_TOKENS,
    precision: Precision = "float32",
    remember: Remember = afresh,
    progress: Progress = silent,
) -> list[tuple[float, int]]:
    """Return (log P in nats, tokens) of each whole text, given what stands before it."""
    positions = model.config.n_positions
    contexts = [tokenizer.encode(text) if text else [] for text in before] or [[]] * len(texts)
    groups = [
        rolling_spans(tokenizer.encode(text), tokenizer.eot, positions, stride, context)
        for text, context in zip(texts, contexts, strict=True)
    ]
    flat = [[span] for spans in groups for span in spans]
    how: dict[str, Any] = {"batch_tokens": batch_tokens, "precision": precision}
    scored = iter(score_groups(model, flat, remember=remember, progress=progress, **how))
    totals = []
    for spans in groups:
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
    remember: Remember = afresh,
    progress: Progress = silent,
) -> list[list[int]]:
    """Continue each prompt; with `stop_at_line_end` a token with a line end in it is the last."""
    stop = line_end_tokens(tokenizer) if stop_at_line_end else None
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))  # like lengths together
    found: dict[int, list[int]] = {}

    def go_on(keys: list[int]) -> list[list[int]]:
        with autocast(model, precision):
            part = [prompts[i] for i in keys]
            return generate(model, part, config, stop, tokenizer.eot, keys)

    for start in range(0, len(order), config.batch_size):
        keys = order[start : start + config.batch_size]
        continued = remember(f"texts/{start}", partial(go_on, keys))
        found |= zip(keys, continued, strict=True)
        progress(len(found), len(prompts), "continued")
    return [found[i] for i in range(len(prompts))]


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
    batch_tokens: int = BATCH_TOKENS,
    precision: Precision = "float32",
    remember: Remember = afresh,
    progress: Progress = silent,
) -> list[list[SpanScore]]:
    """Score spans; those of a group read their common beginning once where that pays."""
    flat = [span for group in groups for span in group]
    scores: dict[int, SpanScore] = {}
    was_training = model.training
    model.eval()
    with autocast(model, precision):
        for number, rows in enumerate(plan(groups, model, batch_tokens)):
            found = remember(f"spans/{number}", partial(score_rows, model, rows))
            numbers = [i for row in rows for i in row.numbers]
            for i, (logprobs, greedy) in zip(numbers, found, strict=True):
                scores[i] = SpanScore(sum(logprobs), tuple(greedy), flat[i].dropped)
            progress(len(scores), len(flat), "scored")
    model.train(was_training)
    in_order = iter(range(len(flat)))
    return [[scores[next(in_order)] for _ in group] for group in groups]


Answer = tuple[list[float], list[bool]]
"""Each scored token's log-probability, and whether it is the most probable one."""


def score_rows(model: Decoder, rows: Sequence[Reading]) -> list[Answer]:
    """Score the spans of some rows in one pass, row by row."""
    at = [
        [start + column for column in row.columns(which)]
        for start, row in zip(begins(model, rows), rows, strict=True)
        for which in range(len(row.spans))
    ]
    places, which = places_of(at)
    targets = [span.tokens[-span.scored :] for row in rows for span in row.spans]
    return answers(model, read(model, rows, places), which, targets)


def places_of(at: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Return the different places (N,) of all lists, and which of them each entry is."""
    flat = torch.tensor([place for places in at for place in places])
    places, which = flat.unique(return_inverse=True)  # branches share the place before them
    return places, which


def answers(
    model: Decoder, hidden: Tensor, which: Tensor, targets: Sequence[list[int]]
) -> list[Answer]:
    """Return what the features (N, C) say of each list of targets; `which` is each one's row."""
    wanted = torch.tensor([token for tokens in targets for token in tokens])
    logprobs, greedy = token_logprobs(model, hidden, which, wanted)
    out, start = [], 0
    for tokens in targets:
        part = slice(start, start := start + len(tokens))
        out.append((logprobs[part], greedy[part]))
    return out


def token_logprobs(
    model: Decoder, hidden: Tensor, which: Tensor, targets: Tensor
) -> tuple[list[float], list[bool]]:
    """Return log P of each target (n,) after row `which` of hidden (N, C), and if it is the best.

    The logits of a chunk of rows at a time are held. They are float32 at least: GPT-2's are around
    -100, where bfloat16's steps are 0.5.
    """
    order = which.argsort(stable=True)
    found: list[Tensor] = []
    step = max(1, LOGITS.get(hidden.device.type, MORE_LOGITS) // model.config.vocab_size)
    with torch.autocast(hidden.device.type, enabled=False):
        for start in range(0, len(hidden), step):
            logits = model.logits(hidden[start : start + step].to(wide(hidden.dtype)))  # (m, V)
            mine = order[(which[order] >= start) & (which[order] < start + step)]
            rows = (which[mine] - start).to(hidden.device)
            chosen = logits[rows, targets[mine].to(hidden.device)]
            best = logits.amax(1)  # (m,)
            total = logits.sub_(best[:, None]).exp_().sum(1).log_() + best
            found.append(torch.stack([chosen - total[rows], (chosen >= best[rows]).to(total)]))
    logprobs, greedy = torch.cat(found, 1).cpu()[:, order.argsort()]
    return logprobs.tolist(), greedy.bool().tolist()
