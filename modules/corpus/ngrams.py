"""Hashes of words and n-grams, a whole text at once in numpy.

The hash of a range of numbers is a polynomial in an odd base modulo 2^64, taken from two running
sums, so that all words of a text, and all n-grams of its words, cost a few array operations.
Equal ranges have equal hashes in every process; unequal ones collide with odds of about 2^-64.
"""

from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
INVERSE = pow(BASE, -1, 2**64)
CODE_POINTS = 0x110000


class Words(NamedTuple):
    """The words of a text."""

    hashes: np.ndarray  # (words,) uint64
    lengths: np.ndarray  # (words,) characters


def alphanumeric_words(text: str) -> Words:
    """Return the lower-cased alphanumeric words: GPT-2's normalisation (paper, section 4)."""
    return _words(text.lower(), _letters_and_digits())


def plain_words(text: str) -> Words:
    """Return the words between blanks, as they are written."""
    return _words(text, _all_but_blanks())


def ngram_hashes(words: np.ndarray, n: int) -> np.ndarray:
    """Return the hashes of all n-grams of hashed words in order: (words - n + 1,), or none."""
    starts = np.arange(max(len(words) - n + 1, 0))
    return range_hashes(words, starts, starts + n)


def range_hashes(values: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return one hash for each range of the values."""
    power, inverse = _powers(max(len(values).bit_length(), 16))
    sums = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values * power[: len(values)], out=sums[1:])
    return mix((sums[ends] - sums[starts]) * inverse[starts])


def mix(hashes: np.ndarray) -> np.ndarray:
    """Scramble 64-bit numbers one to one (the finaliser of SplitMix64; Steele et al. 2014)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def _words(text: str, alphabet: np.ndarray) -> Words:
    """Return the longest runs of characters of an alphabet."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    values = alphabet[codes]  # (characters,)
    inside = np.zeros(len(values) + 2, dtype=bool)
    inside[1:-1] = values != 0
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts, ends = edges[::2], edges[1::2]
    return Words(range_hashes(values, starts, ends), ends - starts)


@lru_cache(maxsize=4)
def _powers(bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first 2^bits powers of the base and of its inverse, modulo 2^64."""
    tables = np.full((2, 2**bits), np.uint64(1))
    tables[:, 1:] = np.array([[BASE], [INVERSE]], dtype=np.uint64)
    tables = np.cumprod(tables, axis=1, dtype=np.uint64)
    return tables[0], tables[1]


@cache
def _letters_and_digits() -> np.ndarray:
    return _alphabet([chr(code).isalnum() for code in range(CODE_POINTS)])


@cache
def _all_but_blanks() -> np.ndarray:
    return _alphabet([not chr(code).isspace() for code in range(CODE_POINTS)])


def _alphabet(inside: list[bool]) -> np.ndarray:
    """Return a random-looking number for every character of an alphabet, 0 for all others."""
    numbers = mix(np.arange(1, CODE_POINTS + 1, dtype=np.uint64) * np.uint64(BASE))
    numbers[~np.array(inside)] = 0
    return numbers
