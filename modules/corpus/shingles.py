r"""Texts as sets of hashed n-grams, without a Python loop over their words.

Words are what `\w+` finds in the lower-case text (GPT-2's own overlap study, section 4, compares
"lower-cased alphanumeric words" as well). A text becomes an array of codes, 0 where no word is;
every word's hash comes from running sums of code * B^position, and n-grams mix the hashes of n
neighbours. Who wants two texts to collide could do so, but gains no more than by copying one.
"""

import hashlib
from collections.abc import Iterator
from functools import cache
from typing import Literal

import numpy as np

Unit = Literal["word", "character"]

BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
PIECE = 2**18  # characters hashed at once: the tables of powers hold twice as many
LAST_LETTER = 0x40000  # no letter or digit has a higher code point
CHANGED_BY_CONTEXT = ("\u0130", "\u03a3")  # lower-cased to two letters, or by the letters around
ASCII_CODES = bytes(ord(c.lower()) if c.isalnum() or c == "_" else 0 for c in map(chr, range(128)))


def word_codes(text: str) -> np.ndarray:
    """Return a code for each character: its lower case inside a word, 0 outside."""
    if text.isascii():
        return np.frombuffer(text.encode().translate(ASCII_CODES.ljust(256, b"\0")), dtype=np.uint8)
    if any(c in text for c in CHANGED_BY_CONTEXT):
        text = text.lower()
    return _unicode_codes().take(_code_points(text), mode="clip")


def exact_hash(text: str, codes: np.ndarray) -> bytes:
    """Return the hash of a text's words (case, blanks and punctuation do not count)."""
    inside = codes != 0
    if not inside.any():
        return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()
    kept = inside.copy()
    kept[1:] |= inside[:-1]  # a 0 after each word
    words = np.append(codes[kept], 0 if inside[-1] else []).astype(codes.dtype)
    if words.max() < 256:
        words = words.astype(np.uint8)  # the same words give the same bytes in any text
    return hashlib.blake2b(words.tobytes(), digest_size=16).digest()


def ngrams(text: str, codes: np.ndarray, n: int, unit: Unit = "word") -> np.ndarray:
    """Return the hashes of a text's n-grams, in order, with repeats (at least one).

    Characters are those of the text as it is; a text without words is one n-gram.
    """
    units = _word_hashes(codes) if unit == "word" else _mixed(_code_points(text).astype(np.uint64))
    if not len(units):
        digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
        units = np.frombuffer(digest, dtype="<u8")
    n = min(n, len(units))
    grams = np.zeros(len(units) - n + 1, dtype=np.uint64)
    for k in range(n):
        grams = (grams + units[k : len(units) - n + 1 + k]) * np.uint64(BASE)
        grams ^= grams >> np.uint64(29)
    return grams


def shingles(text: str, n: int, unit: Unit = "word") -> np.ndarray:
    """Return the set of a text's n-grams as sorted hashes."""
    return np.unique(ngrams(text, word_codes(text), n, unit))


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Return |a ∩ b| / |a ∪ b| of two sorted sets of hashes."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


def _word_hashes(codes: np.ndarray) -> np.ndarray:
    """Return a hash of every word, the same wherever the word stands."""
    hashes = [_hashes_of_piece(piece) for piece in _pieces(codes)]
    return hashes[0] if len(hashes) == 1 else np.concatenate(hashes)


def _pieces(codes: np.ndarray) -> Iterator[np.ndarray]:
    """Cut a very long text between words (or inside one of more than PIECE characters)."""
    start = 0
    while len(codes) - start > 2 * PIECE:
        gaps = np.flatnonzero(codes[start + PIECE : start + 2 * PIECE] == 0)
        end = start + PIECE + (int(gaps[0]) if len(gaps) else PIECE)
        yield codes[start:end]
        start = end
    yield codes[start:]


def _hashes_of_piece(codes: np.ndarray) -> np.ndarray:
    inside = np.zeros(len(codes) + 2, dtype=np.int8)
    inside[1:-1] = codes != 0
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts, ends = edges[::2], edges[1::2]
    powers, inverses = _powers()
    sums = np.zeros(len(codes) + 1, dtype=np.uint64)
    np.cumsum(codes * powers[: len(codes)], out=sums[1:])
    return _mixed((sums[ends] - sums[starts]) * inverses[starts])


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """Spread every bit over the whole number (the finaliser of SplitMix64, Steele et al. 2014)."""
    hashes ^= hashes >> np.uint64(30)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(27)
    hashes *= np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


@cache
def _unicode_codes() -> np.ndarray:
    """Return the code of every code point up to LAST_LETTER, which is 0 and stands for the rest."""
    characters = map(chr, range(LAST_LETTER + 1))
    codes = (ord(c.lower()[0]) if c.isalnum() or c == "_" else 0 for c in characters)
    return np.fromiter(codes, dtype=np.uint32, count=LAST_LETTER + 1)


@cache
def _powers() -> tuple[np.ndarray, np.ndarray]:
    """Return BASE^i and BASE^-i modulo 2^64."""
    both = []
    for base in (BASE, pow(BASE, -1, 2**64)):
        factors = np.full(2 * PIECE + 1, base, dtype=np.uint64)
        factors[0] = 1
        both.append(np.cumprod(factors))
    return both[0], both[1]
