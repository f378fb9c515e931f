"""From texts to spans: which tokens are scored, given which.

The conventions are lm-evaluation-harness's where the papers are silent (gpt2.md, section 8).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from modules.tokenizer import Tokenizer


@dataclass(frozen=True)
class Span:
    """Tokens of which the last `scored` are scored, given those before them."""

    tokens: list[int]
    scored: int
    dropped: int = 0  # tokens cut off on the left so that it fits the model

    @property
    def read(self) -> int:
        """Positions the model reads: all tokens but the last."""
        return len(self.tokens) - 1

    @property
    def start(self) -> int:
        """Index of the first position whose prediction is scored."""
        return self.read - self.scored


def encode_pair(
    tokenizer: Tokenizer, context: str, continuation: str
) -> tuple[list[int], list[int]]:
    """Encode both together and split at the length of the context encoded alone.

    The convention of lm-evaluation-harness: trailing spaces of the context move to the
    continuation, and an empty context is end-of-text.

    Raises:
        ValueError: no token is left for the continuation.
    """
    bare = context.rstrip()
    continuation = context[len(bare) :] + continuation
    if bare:
        whole, n = tokenizer.encode(bare + continuation), len(tokenizer.encode(bare))
        context_ids, ids = whole[:n], whole[n:]
    else:
        context_ids, ids = [tokenizer.eot], tokenizer.encode(continuation)
    if not ids:
        raise ValueError(f"nothing to score: {continuation!r} after {context[-40:]!r} has no token")
    return context_ids, ids


def pair_spans(
    pairs: Sequence[tuple[list[int], list[int]]], positions: int, *, alike: bool = True
) -> list[Span]:
    """Make the spans of one item's candidates.

    What is too long for the model loses tokens on the left: all candidates as many, so that they
    are compared in one context; not `alike`: each its own number (lm-evaluation-harness).

    Raises:
        ValueError: a continuation does not fit the model's positions.
    """
    over = [max(0, len(a) + len(b) - 1 - positions) for a, b in pairs]
    drops = [max(over)] * len(pairs) if alike else over
    for (context, continuation), drop in zip(pairs, drops, strict=True):
        if drop >= len(context):
            raise ValueError(
                f"a continuation of {len(continuation)} tokens (context {len(context)}, "
                f"{drop} over) does not fit the model's {positions} positions"
            )
    return [Span((a + b)[drop:], len(b), drop) for (a, b), drop in zip(pairs, drops, strict=True)]


def rolling_spans(
    tokens: list[int], eot: int, positions: int, stride: int, before: Sequence[int] = ()
) -> list[Span]:
    """Cut a text into windows so that every token is scored once, the first after end-of-text.

    Tokens `before` it are context only.

    Windows advance by `stride` tokens and hold `positions` tokens of context where there are; with
    stride = positions they are the harness's disjoint windows.
    """
    assert 0 < stride <= positions, f"stride {stride} of {positions} positions"
    text, spans, done = [eot, *before, *tokens], [], len(before)
    while done < len(text) - 1:
        end = min(done + (stride if done else positions), len(text) - 1)
        spans.append(Span(text[max(0, end - positions) : end + 1], end - done))
        done = end
    return spans
