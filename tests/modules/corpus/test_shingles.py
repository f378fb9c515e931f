r"""N-grams and their hashes: against plain sets of words, for any text in any script."""

import random
import re
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.corpus import shingles as module
from modules.corpus.shingles import exact_hash, jaccard, ngrams, shingles, word_codes
from tests.modules.corpus.alike import true_jaccard

SENTENCES = [" ".join(random.Random(seed).choices("abcdefgh", k=60)) for seed in range(20)]


def words(text: str) -> list[str]:
    """Return the words that the codes spell."""
    return "".join(chr(code) if code else " " for code in word_codes(text).tolist()).split()


@pytest.mark.parametrize(("first", "last"), [(0, 0x3000), (0x3000, 0x20000), (0x20000, 0x110000)])
def test_every_character_is_in_a_word_or_not_as_in_a_regular_expression(first, last):
    """One by one, between letters and digits (lower-casing looks at the neighbours)."""
    for code in range(first, last):
        text = f"1{chr(code)}a é"
        if 0x30000 < code < 0x10F000 and code % 97:  # hardly any of them is assigned
            continue
        assert words(text) == re.findall(r"\w+", text.lower()), hex(code)


@given(st.text())
def test_words_of_any_text_are_those_of_the_regular_expression(text):
    assert words(text) == re.findall(r"\w+", text.lower())


def test_hashed_shingles_give_the_jaccard_of_plain_sets():
    for a, b in combinations(SENTENCES, 2):
        assert jaccard(shingles(a, 2), shingles(b, 2)) == pytest.approx(true_jaccard(a, b, 2))


@given(st.lists(st.sampled_from("abc"), max_size=30), st.lists(st.sampled_from("abc"), max_size=30))
def test_any_two_texts_have_the_jaccard_of_plain_sets(a, b):
    if a and b:
        found = jaccard(shingles(" ".join(a), 5), shingles(" ".join(b), 5))
        assert found == pytest.approx(true_jaccard(" ".join(a), " ".join(b)))


def test_order_inside_an_n_gram_counts():
    assert jaccard(shingles("a b c d e", 5), shingles("e d c b a", 5)) == 0
    assert jaccard(shingles("A, b; c. D e!", 5), shingles("a b c d e", 5)) == 1


def test_a_word_has_one_hash_wherever_it_stands_and_whatever_is_around():
    hashes = {}
    text = "the ship – the SHIP, the ship's été, the (ship) the été 12 the"
    for sentence in (text, "x " * 500 + text, text + " ß", "ship"):
        grams = ngrams(sentence, word_codes(sentence), 1)
        for word, value in zip(words(sentence), grams.tolist(), strict=True):
            assert hashes.setdefault(word, value) == value
    assert len(set(hashes.values())) == len(hashes) == 7


def test_different_words_have_different_hashes():
    """All of one to three letters, numbers, and words that share their letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    found = {a + b + c for a in letters for b in " " + letters for c in " " + letters}
    vocabulary = sorted({w.replace(" ", "") for w in found} | set(map(str, range(50_000))))
    text = " ".join(vocabulary)
    assert len(set(ngrams(text, word_codes(text), 1).tolist())) == len(vocabulary)


def test_a_very_long_text_is_cut_between_words(monkeypatch):
    texts = [" ".join(random.Random(7).choices(["aé", "bb", "c"], k=3000)), "one " + "x" * 1000]
    whole = [shingles(text, 5).tolist() for text in texts[:1]]
    monkeypatch.setattr(module, "PIECE", 100)
    assert [shingles(text, 5).tolist() for text in texts[:1]] == whole
    assert len(shingles(texts[1], 1)) > 2  # a word of 1000 letters, in pieces


def test_exact_hashes_are_of_the_words_alone():
    def of(text: str) -> bytes:
        return exact_hash(text, word_codes(text))

    same = ["Hello, big World", "hello big   world", "“Hello” — big world!", " hello\nbig world."]
    assert len({of(text) for text in same}) == 1
    other = [
        "hellobig world",
        "hello big",
        "hello big world a",
        "helló big world",
        "",
        "!!!",
        "???",
    ]
    assert len({of(text) for text in [*same[:1], *other]}) == 1 + len(other)


def test_texts_without_words_are_one_n_gram_each():
    assert len(shingles("", 5)) == len(shingles("!!!", 5)) == 1
    assert shingles("!!!", 5).tolist() != shingles("???", 5).tolist()


def test_character_n_grams_are_of_the_text_as_it_is():
    for a, b in combinations(["A b", "a b", "ab", "a  b", "äb ", "a b a b"], 2):
        sets = [{t[i : i + 2] for i in range(len(t) - 1)} for t in (a, b)]
        expected = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
        assert jaccard(*(shingles(t, 2, "character") for t in (a, b))) == pytest.approx(expected)


def test_hashes_are_the_same_for_ever():
    assert shingles("one two three four five", 5).tolist() == [16198134527254397156]
    assert np.array_equal(
        shingles("ONE two, three four — five", 5), shingles("one two three four five", 5)
    )
