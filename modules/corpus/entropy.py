"""How well n-grams predict a text, in nats a token: the floor that a language model must beat.

Shannon's n-gram models of the training tokens, scored on held-out ones. Everything is a sorted
count table in numpy; memory grows with the number of different pairs, not with the vocabulary
squared.
"""

from pathlib import Path

import numpy as np

from modules.corpus.token_file import read_held_out, read_index, read_split

TRAIN_TOKENS = 200_000_000  # counted of a larger corpus: enough for a floor, and 2 GB of tables
HELD_OUT_TOKENS = 20_000_000
WEIGHTS = np.linspace(0.01, 0.99, 99)  # candidates for the bigram's share
TUNE_FRACTION = 0.1  # the last tenth of the training tokens chooses the weight,
TUNE_TOKENS = 10_000_000  # or so many, if that is less
CHUNK = 2**24  # tokens counted at once


def ngram_entropies(train: np.ndarray, heldout: np.ndarray, vocab_size: int) -> dict[str, float]:
    """Return the cross-entropy of held-out tokens under a unigram and a bigram model.

    `unigram`: counts of train plus one for each of the vocabulary. `bigram`: Jelinek-Mercer,
    w c(a b) / c(a) + (1 - w) unigram(b), where w is the best on the last tenth of train for
    counts of the rest (held-out is never looked at for tuning), then used with all counts; after
    a token that train does not go on from, the unigram alone. Both are means over
    heldout[1:], so that they compare; `weight` is w.

    Raises:
        ValueError: a token is outside the vocabulary, or there are too few tokens.
    """
    for name, tokens in (("train", train), ("heldout", heldout)):
        if len(tokens) < 2:
            raise ValueError(f"{name}: {len(tokens)} tokens, a bigram needs two")
        if not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
            raise ValueError(f"{name}: a token id is outside the vocabulary of {vocab_size}")
    cut = len(train) - max(1, min(round(len(train) * TUNE_FRACTION), TUNE_TOKENS))
    weight = _best_weight(*_probabilities(train[:cut], train[cut - 1 :], vocab_size))
    unigram, bigram, known = _probabilities(train, heldout, vocab_size)
    return {
        "unigram": float(-np.log(unigram).mean()),
        "bigram": _mixed(weight, unigram, bigram, known),
        "weight": float(weight),
    }


def entropies_of(tokens: Path) -> dict[str, float]:
    """Return a tokens/ directory's n-gram entropies on held-out text, keys ending in _nats.

    At most TRAIN_TOKENS and HELD_OUT_TOKENS from the start of each split are counted.
    """
    train, heldout = read_split(tokens, "train"), read_held_out(tokens)
    if len(heldout) < 2:
        return {}
    found = ngram_entropies(
        train.read(0, min(len(train), TRAIN_TOKENS)),
        heldout.read(0, min(len(heldout), HELD_OUT_TOKENS)),
        read_index(tokens)["vocab_size"],
    )
    return {f"{name}_nats": round(found[name], 6) for name in ("unigram", "bigram")}


def _best_weight(unigram: np.ndarray, bigram: np.ndarray, known: np.ndarray) -> float:
    """Return the bigram's share that predicts these tokens best."""
    return float(min(WEIGHTS, key=lambda w: _mixed(w, unigram, bigram, known)))


def _mixed(weight: float, unigram: np.ndarray, bigram: np.ndarray, known: np.ndarray) -> float:
    """Return the cross-entropy of the mixture in nats a token."""
    share = np.where(known, weight, 0.0)
    return float(-np.log(share * bigram + (1 - share) * unigram).mean())


def _probabilities(
    train: np.ndarray, text: np.ndarray, vocab_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each of text[1:] its unigram and bigram probability, and whether its context is
    known; each (len(text) - 1,).
    """
    counts = _count(train, vocab_size)  # (vocabulary,)
    followed = counts - (np.arange(vocab_size) == train[-1])  # as the first of a pair
    before, after = text[:-1].astype(np.int64), text[1:].astype(np.int64)
    unigram = (counts[after] + 1) / (len(train) + vocab_size)
    pairs, times = _count_pairs(train, vocab_size)
    seen = _look_up(pairs, times, before * vocab_size + after)
    known = followed[before] > 0
    return unigram, seen / np.maximum(followed[before], 1), known


def _count(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """Return how often each id occurs."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for start in range(0, len(tokens), CHUNK):
        counts += np.bincount(tokens[start : start + CHUNK], minlength=vocab_size)
    return counts


def _count_pairs(tokens: np.ndarray, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the different pairs of neighbours, sorted, as first * vocab_size + second, and how
    often each occurs.
    """
    pairs, times = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    for start in range(0, len(tokens) - 1, CHUNK):
        chunk = tokens[start : start + CHUNK + 1].astype(np.int64)
        new, again = np.unique(chunk[:-1] * vocab_size + chunk[1:], return_counts=True)
        both, place = np.unique(np.concatenate([pairs, new]), return_inverse=True)
        total = np.bincount(place, weights=np.concatenate([times, again]), minlength=len(both))
        pairs, times = both, total.astype(np.int64)
    return pairs, times


def _look_up(pairs: np.ndarray, times: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the counts of pairs, 0 for those never seen."""
    place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    return np.where(pairs[place] == wanted, times[place], 0)
