"""LAMBADA's three ways of counting (GPT-2, section 3.3; gpt2.md 5.3).

Whole word: every token of the last word is the most probable one. Last token: only the last of
them. With a stop-word filter: the most probable word that is not a stop word, found greedily. A
stop word is refused as a word, not as the first piece of a longer one (" the" of " therapy").
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from modules.evaluation.config import Precision
from modules.evaluation.score import autocast, batches, pad, score_groups
from modules.evaluation.spans import encode_pair, pair_spans
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
    """Return one row per passage: the last word's negative log-likelihood, and what was right."""
    room = model.config.n_positions - PIECES
    pairs = [encode_pair(tokenizer, item.context, item.target) for item in items]
    groups = [pair_spans([pair], model.config.n_positions) for pair in pairs]
    scores = score_groups(
        model, groups, batch_tokens=batch_tokens, precision=precision, progress=progress
    )
    contexts = [context[-room:] for context, _ in pairs]
    words: dict[int, str] = {}
    for batch in batches(range(len(items)), lambda i: len(contexts[i]), batch_tokens):
        found = filtered_words(model, tokenizer, [contexts[i] for i in batch], precision)
        words |= dict(zip(batch, found, strict=True))
        progress(len(words), len(items), "last words")
    return [
        {
            "id": item.id,
            "nll": -score.logprob,
            "units": 1,
            "accuracy": float(all(score.greedy)),
            "accuracy_stop_word_filter": float(words[i].lower() == item.target.strip().lower()),
            "accuracy_last_token": float(score.greedy[-1]),
            "target": item.target.strip(),
            "filtered_word": words[i],
            "dropped": score.dropped,
        }
        for i, (item, (score,)) in enumerate(zip(items, scores, strict=True))
    ]


@torch.no_grad()
def filtered_words(
    model: Any, tokenizer: Tokenizer, contexts: Sequence[list[int]], precision: Precision
) -> list[str]:
    """Return the most probable next word of each context that is no stop word."""
    lengths = [len(context) for context in contexts]
    with autocast(model, precision):
        memory = model.new_cache(len(contexts), max(lengths) + PIECES)
        hidden = model(pad(contexts, model.device), memory, lengths)  # (B, T, C)
        ends = torch.tensor(lengths, device=hidden.device) - 1
        last = hidden[torch.arange(len(contexts), device=hidden.device), ends]  # (B, C)
        count = min(BEST, model.config.vocab_size)
        tries = model.logits(last).float().topk(count).indices.tolist()  # (B, count), best first
        words = [""] * len(contexts)
        pieces = [[row.pop(0)] for row in tries]
        active = list(range(len(contexts)))
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
    ends = torch.tensor(lengths, device=hidden.device) - 1
    last = hidden[torch.arange(len(rows), device=hidden.device), ends]
    return [int(i) for i in model.logits(last).float().argmax(-1)]


def continues(tokenizer: Tokenizer, token: int) -> bool:
    """True if a token goes on with the word: it begins with a letter, a digit or half a letter."""
    text = "" if token == tokenizer.eot else tokenizer.decode([token])
    return bool(text) and (text[0].isalnum() or text[0] == "\ufffd")
