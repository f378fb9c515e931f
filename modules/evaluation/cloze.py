"""LAMBADA's three ways of counting (GPT-2, section 3.3; gpt2.md 5.3).

Whole word: every token of the last word is the most probable one. Last token: only the last of
them. With a stop-word filter: the most probable word that is not a stop word, found greedily. A
stop word is refused as a word, not as the first piece of a longer one (" the" of " therapy").
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from modules.evaluation.config import Precision
from modules.evaluation.score import autocast, batches, pad, token_logprobs
from modules.evaluation.spans import encode_pair
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
    batch_tokens: int,
    precision: Precision,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Return one row per passage: the last word's negative log-likelihood, and what was right.

    Contexts too long for the model lose their beginning.
    """
    pairs = [encode_pair(tokenizer, item.context, item.target) for item in items]
    rows: dict[int, dict[str, Any]] = {}
    for batch in batches(range(len(items)), lambda i: len(pairs[i][0]), batch_tokens):
        found = read_batch(model, tokenizer, [pairs[i] for i in batch], precision)
        for i, row in zip(batch, found, strict=True):
            word = items[i].target.strip()
            same = row["filtered_word"].lower() == word.lower()
            right = {"accuracy_stop_word_filter": float(same), "target": word, "units": 1}
            rows[i] = {"id": items[i].id, **right, **row}
        progress(len(rows), len(items), "last words")
    return [rows[i] for i in range(len(items))]


@torch.no_grad()
def read_batch(
    model: Any,
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[list[int], list[int]]],
    precision: Precision,
) -> list[dict[str, Any]]:
    """Read contexts once, then the last words after them, in three ways."""
    targets = [target for _, target in pairs]
    room = model.config.n_positions - max(PIECES, *(len(target) for target in targets))
    contexts = [context[-room:] for context, _ in pairs]
    lengths = [len(context) for context in contexts]
    with autocast(model, precision):
        memory = model.new_cache(len(pairs), max(lengths) + model.config.n_positions - room)
        hidden = model(pad(contexts, model.device), memory, lengths)  # (B, T, C)
        last = at_ends(hidden, lengths)  # (B, C)
        scores = target_scores(model, memory, last, targets)
        words = filtered_words(model, tokenizer, memory, last)
    return [
        {
            "nll": -sum(logprobs),
            "accuracy": float(all(greedy)),
            "accuracy_last_token": float(greedy[-1]),
            "filtered_word": word,
            "dropped": len(context) - length,
        }
        for (logprobs, greedy), word, (context, _), length in zip(
            scores, words, pairs, lengths, strict=True
        )
    ]


def at_ends(hidden: Tensor, lengths: Sequence[int]) -> Tensor:
    """Return the features (B, C) of each row's last real position."""
    ends = torch.tensor(lengths, device=hidden.device) - 1
    return hidden[torch.arange(len(lengths), device=hidden.device), ends]


def target_scores(
    model: Any, memory: Any, last: Tensor, targets: Sequence[list[int]]
) -> list[tuple[list[float], list[bool]]]:
    """Return each target token's log-probability and whether it is the most probable one."""
    rows = [last[:, None]]  # the features that predict the first token
    inputs = [target[:-1] for target in targets]
    if longest := max(map(len, inputs)):
        own = memory.take(list(range(len(targets))))
        rows.append(model(pad(inputs, model.device), own, [longest] * len(inputs)))
    hidden = torch.cat(rows, 1)  # (B, 1 + P, C)
    at = [(b, k) for b, target in enumerate(targets) for k in range(len(target))]
    b, k = torch.tensor(at, device=hidden.device).unbind(1)
    ids = torch.tensor([token for target in targets for token in target], device=hidden.device)
    logprobs, greedy = token_logprobs(model, hidden[b, k], ids)
    out, start = [], 0
    for target in targets:
        part = slice(start, start := start + len(target))
        out.append((logprobs[part], greedy[part]))
    return out


def filtered_words(model: Any, tokenizer: Tokenizer, memory: Any, last: Tensor) -> list[str]:
    """Return the most probable next word after each row that is no stop word."""
    count = min(BEST, model.config.vocab_size)
    tries = model.logits(last).float().topk(count).indices.tolist()  # (B, count), best first
    words = [""] * len(tries)
    pieces = [[row.pop(0)] for row in tries]
    active = list(range(len(tries)))
    while active:
        following = next_tokens(model, memory, active, [pieces[i] for i in active])
        unfinished = []
        for i, token in zip(active, following, strict=True):
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


def next_tokens(model: Any, memory: Any, rows: list[int], pieces: Sequence[list[int]]) -> list[int]:
    """Return the most probable token after each row's context and pieces."""
    lengths = [len(piece) for piece in pieces]
    hidden = model(pad(pieces, model.device), memory.take(rows), lengths)  # (B, P, C)
    best = model.logits(at_ends(hidden, lengths)).float().argmax(-1)
    return [int(i) for i in best]


def continues(tokenizer: Tokenizer, token: int) -> bool:
    """True if a token goes on with the word: it begins with a letter, a digit or half a letter."""
    text = "" if token == tokenizer.eot else tokenizer.decode([token])
    return bool(text) and (text[0].isalnum() or text[0] == "\ufffd")
