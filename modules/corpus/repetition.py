"""Texts that repeat themselves: Gopher's repetition rules (Rae et al. 2021, Table A1).

A line, paragraph or n-gram is a duplicate if it occurred before in the text. Shares of characters
are of the whole text, as in datatrove (an independent implementation that ours is compared with
in bench/repetition.py), but each character of an overlap counts once, as the paper says.
"""

import re
from functools import lru_cache

import numpy as np

from modules.corpus import ngrams
from modules.corpus.document import Document


def repeated_lines(document: Document, *, max_lines: float, max_characters: float) -> str | None:
    """Drop texts that say the same lines again and again."""
    return _repeated(lines_of(document.text), "lines", max_lines, max_characters)


def repeated_paragraphs(
    document: Document, *, max_paragraphs: float, max_characters: float
) -> str | None:
    """Drop texts that say the same paragraphs again and again."""
    paragraphs = [p for p in map(str.strip, re.split(r"\n\s*\n", document.text)) if p]
    return _repeated(paragraphs, "paragraphs", max_paragraphs, max_characters)


def frequent_ngram(document: Document, *, max_characters: dict[int, float]) -> str | None:
    """Drop texts full of one n-gram, with a limit for each n."""
    words = _words_of(document.text)
    for n, limit in max_characters.items():
        share = most_frequent(words, n) / max(len(document.text), 1)
        if share > limit:
            return f"{share:.2f} of characters are in one {n}-gram"
    return None


def repeated_ngrams(document: Document, *, max_characters: dict[int, float]) -> str | None:
    """Drop texts with many characters in repeated n-grams, with a limit for each n.

    Every repeated n-gram lies in repeated shorter ones, so the shortest clears most texts.
    """
    words, least = _words_of(document.text), min(max_characters.values(), default=1.0)
    for n, limit in sorted(max_characters.items()):
        share = in_repeated(words, n) / max(len(document.text), 1)
        if share > limit:
            return f"{share:.2f} of characters are in repeated {n}-grams"
        if share <= least:
            return None
    return None


def most_frequent(words: ngrams.Words, n: int) -> int:
    """Return the characters in the most frequent n-gram, single blanks included.

    Of several equally frequent ones the first counts; an n-gram that occurs once is not frequent.
    """
    hashes = ngrams.ngram_hashes(words.hashes, n)
    kinds, times = _counted(hashes)
    most = int(times.max(initial=1))
    if most == 1:
        return 0
    start = int(_members(hashes, kinds[times == most]).argmax())
    return (int(words.lengths[start : start + n].sum()) + n - 1) * most


def in_repeated(words: ngrams.Words, n: int) -> int:
    """Return the characters of words that lie in an n-gram seen before, each counted once."""
    hashes = ngrams.ngram_hashes(words.hashes, n)
    kinds, times = _counted(hashes)
    places = np.flatnonzero(_members(hashes, kinds[times > 1]))
    _, first = np.unique(hashes[places], return_index=True)
    change = np.zeros(len(words.hashes) + 1, dtype=np.int64)
    change[np.delete(places, first)] = 1
    change[n:] -= change[:-n].copy()
    return int(words.lengths[np.cumsum(change)[:-1] > 0].sum())


@lru_cache(maxsize=1)  # both rules look at the same text
def _words_of(text: str) -> ngrams.Words:
    return ngrams.plain_words(text)


def _counted(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct hashes in order and how often each occurs."""
    ordered = np.sort(hashes)
    starts = np.flatnonzero(np.diff(ordered, prepend=~ordered[:1]))
    return ordered[starts], np.diff(starts, append=len(ordered))


def _members(hashes: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return which hashes are among sorted ones."""
    if not len(kinds):
        return np.zeros(len(hashes), dtype=bool)
    return kinds[np.minimum(np.searchsorted(kinds, hashes), len(kinds) - 1)] == hashes


def lines_of(text: str) -> list[str]:
    r"""Return the lines that hold something; only \n ends a line."""
    return [line for line in map(str.strip, text.split("\n")) if line]


def _repeated(parts: list[str], name: str, max_parts: float, max_characters: float) -> str | None:
    """Compare the share of parts seen before, and of their characters, with two limits."""
    if len(set(parts)) == len(parts):
        return None
    seen: set[str] = set()
    again = [p for p in parts if p in seen or seen.add(p)]  # type: ignore[func-returns-value]
    share = len(again) / max(len(parts), 1)
    characters = sum(map(len, again)) / max(sum(map(len, parts)), 1)
    if share > max_parts:
        return f"{share:.2f} of {name} are repeated"
    if characters > max_characters:
        return f"{characters:.2f} of characters are in repeated {name}"
    return None
