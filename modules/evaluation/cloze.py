"""LAMBADA's three ways of counting (GPT-2, section 3.3; gpt2.md 5.3).

Whole word: every token of the last word is the most probable one. Last token: only the last of
them. With a stop-word filter: the most probable word that is not a stop word, found greedily. A
stop word is refused as a word, not as the first piece of a longer one (" the" of " therapy").
"""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from modules.evaluation.config import Precision
from modules.evaluation.journal import Remember, afresh
from modules.evaluation.reading import batches, pad
from modules.evaluation.score import answers, autocast, places_of, score_groups
from modules.evaluation.spans import Span, encode_pair, pair_spans
from modules.files import Progress, silent
from modules.model.base import Decoder
from modules.task import Cloze
from modules.tokenizer import Tokenizer

BEST = 128  # first pieces tried, from the best down (the public replication's number)
PIECES = 6  # longest word in tokens (the same)
CONTENT_WORDS = frozenset(
    (
        *("amount", "bill", "bottom", "call", "computer", "cry", "describe", "detail", "empty"),
        *("fifteen", "fill", "find", "fire", "found", "front", "full", "interest", "keep", "mill"),
        *("mine", "move", "name", "part", "serious", "show", "side", "sincere", "system", "thick"),
        *("thin", "top"),
    )
)
"""Words in scikit-learn's stop list that end sentences well enough; they stay allowed."""


@cache
def stop_words() -> frozenset[str]:
    """Return scikit-learn's English stop words without those that carry content."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS) - CONTENT_WORDS


def cloze_rows(
    model: Decoder,
    tokenizer: Tokenizer,
    items: Sequence[Cloze],
    *,
    filtered: bool = True,
    batch_tokens: int,
    precision: Precision,
    remember: Remember = afresh,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Return one row per passage: the last word's negative log-likelihood, and what was right.

    Contexts too long for the model lose their beginning. Not `filtered`: without the stop-word
    filter's way, and no more cut off than the word needs (lm-evaluation-harness).
    """
    pairs = [encode_pair(tokenizer, item.context, item.target) for item in items]
    positions = model.config.n_positions
    how: dict[str, Any] = {"batch_tokens": batch_tokens, "precision": precision}
    if not filtered:
        groups = [pair_spans([pair], positions) for pair in pairs]
        scored = score_groups(model, groups, remember=remember, progress=progress, **how)
        return [
            word_row(item, group[0], score.logprob, score.greedy)
            for item, group, (score,) in zip(items, groups, scored, strict=True)
        ]
    spans = [word_span(context, target, positions) for context, target in pairs]
    lengths = [span.read for span in spans]
    found: dict[int, dict[str, Any]] = {}
    for number, batch in enumerate(batches(range(len(items)), lengths, batch_tokens)):
        chosen = [spans[i] for i in batch]
        ask = partial(read_words, model, tokenizer, chosen, precision)
        answered = remember(f"words/{number}", ask)
        for i, (logprobs, greedy, word) in zip(batch, answered, strict=True):
            found[i] = word_row(items[i], spans[i], sum(logprobs), greedy)
            right = word.lower() == items[i].target.strip().lower()
            found[i] |= {"filtered_word": word, "accuracy_stop_word_filter": float(right)}
        progress(len(found), len(items), "last words")
    return [found[i] for i in range(len(items))]


def word_span(context: list[int], target: list[int], positions: int) -> Span:
    """Return the span of a last word; its context leaves room for the words that are tried."""
    drop = max(0, len(context) + max(PIECES, len(target)) - positions)
    return Span(context[drop:] + target, len(target), drop)


def word_row(item: Cloze, span: Span, logprob: float, greedy: Sequence[bool]) -> dict[str, Any]:
    """Return what the metrics need of one passage."""
    return {
        "id": item.id,
        "nll": -logprob,
        "accuracy": float(all(greedy)),
        "accuracy_last_token": float(greedy[-1]),
        "target": item.target.strip(),
        "units": 1,
        "dropped": span.dropped,
    }


@torch.no_grad()
def read_words(
    model: Any, tokenizer: Tokenizer, spans: Sequence[Span], precision: Precision
) -> list[tuple[list[float], list[bool], str]]:
    """Read passages once; return their last word's answers and the best word that may stand there.

    The memory keeps the contexts only: what is tried after them is written over.
    """
    lengths = [span.start + 1 for span in spans]
    with autocast(model, precision):
        room = max(lengths) + max(PIECES, *(span.scored for span in spans))
        memory = model.new_cache(len(spans), min(room, model.config.n_positions))
        tokens = pad([span.tokens[:-1] for span in spans], model.device)
        hidden = model(tokens, memory, lengths)  # (B, T, C)
        if not model.branching:  # recurrent: its features end where the contexts end
            hidden = model(tokens)
        width = hidden.shape[1]
        at = [
            [b * width + column for column in range(span.start, span.read)]
            for b, span in enumerate(spans)
        ]
        flat = hidden.flatten(0, 1)  # (B * T, C)
        places, which = places_of(at)
        targets = [span.tokens[-span.scored :] for span in spans]
        scores = answers(model, flat[places.to(flat.device)], which, targets)
        last = flat[torch.tensor([places[0] for places in at], device=flat.device)]  # (B, C)
        words = filtered_words(model, tokenizer, memory, last)
    return [(*answer, word) for answer, word in zip(scores, words, strict=True)]


def filtered_words(model: Any, tokenizer: Tokenizer, memory: Any, last: Tensor) -> list[str]:
    """Return the most probable next word after each row that is no stop word."""
    count = min(BEST, model.config.vocab_size)
    tries = model.logits(last).float().topk(count).indices.tolist()  # (B, count), best first
    words = [""] * len(tries)
    pieces = [[row.pop(0)] for row in tries]
    held = active = list(range(len(tries)))  # rows in the memory, and those without a word yet
    while active:
        if 2 * len(active) <= len(held):
            memory, held = memory.take([held.index(i) for i in active]), active
        following = next_tokens(model, memory, [pieces[i] for i in held])
        unfinished = []
        for i, token in zip(held, following, strict=True):
            if i not in active:
                continue
            if continues(tokenizer, token) and len(pieces[i]) < PIECES:
                pieces[i].append(token)
                unfinished.append(i)
                continue
            words[i] = tokenizer.decode(pieces[i]).strip()
            if tries[i] and (not words[i] or words[i].lower() in stop_words()):
                pieces[i] = [tries[i].pop(0)]
                unfinished.append(i)
        active = unfinished
    return words


def next_tokens(model: Any, memory: Any, pieces: Sequence[list[int]]) -> list[int]:
    """Return the most probable token after each row's context and pieces."""
    lengths = [len(piece) for piece in pieces]
    hidden = model(pad(pieces, model.device), memory.peek(), lengths)  # (B, P, C)
    ends = torch.tensor(lengths, device=hidden.device) - 1
    last = hidden[torch.arange(len(lengths), device=hidden.device), ends]  # (B, C)
    return [int(i) for i in model.logits(last).float().argmax(-1)]


def continues(tokenizer: Tokenizer, token: int) -> bool:
    """True if a token goes on with the word: it begins with a letter, a digit or half a letter."""
    text = "" if token == tokenizer.eot else tokenizer.decode([token])
    return bool(text) and (text[0].isalnum() or text[0] == "\ufffd")
