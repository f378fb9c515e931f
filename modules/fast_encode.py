"""Encoding of whole corpora: gigatoken where it is shown to equal tiktoken, else tiktoken.

gigatoken gives tiktoken's ids an order of magnitude faster, but it is young. It is trusted as far
as it is checked on loading: both must put every character into the same class of GPT-2's pattern
(letter, number, blank, other; texts with characters that only one of the two knows, as they know
different versions of Unicode, go to tiktoken), and encode every entry of the vocabulary and a list
of hostile texts alike. Where it fails, or is not installed, tiktoken encodes everything.
"""

import json
import logging
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from itertools import groupby
from typing import Any

import numpy as np

from modules.tokenizer import Tokenizer, symbol_bytes, symbols

log = logging.getLogger(__name__)

CACHE_BYTES = 2**27  # of text; gigatoken 0.10 remembers all words it sees: 0.9 GiB if all differ
CLASSED = range(0x80, 0x34000)  # planes 0 to 3; nothing is assigned in the next ten planes
MAX_ODD = 64  # prefixes of characters classed differently; more is no matter of Unicode versions

PROVEN = {  # (gigatoken, tiktoken) -> what `compare` finds, which takes 0.3 s a process
    ("0.10.0", "0.14.0"): (  # Unicode 17 and 16
        *("e0a2", "e0b1", "e0b3", "ea9f", "f090", "f091", "f096", "f098", "f09e", "f0ab", "f0ac"),
        *("f0b2", "f0b3"),
    )
}

ABSENT = "gigatoken is not installed: tiktoken encodes, at a tenth of the speed"
REFUSED = "gigatoken is not used: %s; tiktoken encodes, at a tenth of the speed"

HOSTILE = (
    "",
    "\x00 \x1c\x1d\x1e\x1f\x85\xa0\u2028\u2029\ufeff\u200b \u3000x",
    "I'm 'S 's'll''ve 'd't 're1's\u2019s",
    "<|endoftext|> <|endoftext|>",
    "   a  \n\n b\t\t\tc \r\n \r\n",
    "naïve ½²٣１２ हिन्दी العربية 日本語テキスト ไทย",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea e\u0301\u0301",
    *(unit * 3000 for unit in ("a", "^", " ", "\n", "7", "日", "ab", "'s", " a", "\u0301", "\x00")),
)


class FastEncoder:
    """Encode texts of a corpus with the ids of `Tokenizer.encode`.

    Attributes:
        is_fast: whether gigatoken is there and passed the checks.
    """

    def __init__(self, tokenizer: Tokenizer, *, fast: bool = True) -> None:
        """Load and check gigatoken for a vocabulary; with fast=False use tiktoken alone."""
        self._tokenizer = tokenizer
        self._content = _tokenizer_json(tokenizer)
        self._fed = 0  # bytes since the engine was loaded
        self._odd: dict[bytes, list[bytes]] = {}
        self._engine: Any = self._checked_engine() if fast else None

    @property
    def is_fast(self) -> bool:
        """Return whether gigatoken encodes."""
        return self._engine is not None

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of a text as uint32 (tokens,)."""
        return self.encode_sized(text)[0]

    def encode_sized(self, text: str) -> tuple[np.ndarray, int]:
        """Return the ids of a text as uint32 (tokens,), and its bytes of UTF-8."""
        data = _utf8(text)
        if data is None:
            return self._slow_ids(text), len(text.encode("utf-8", "replace"))
        if self._engine is None or self._is_odd(data):
            return self._slow_ids(text), len(data)
        return self._fast_ids(data), len(data)

    def _slow_ids(self, text: str) -> np.ndarray:
        """Return tiktoken's ids."""
        return np.array(self._tokenizer.encode(text), dtype=np.uint32)

    def _fast_ids(self, data: bytes) -> np.ndarray:
        """Return gigatoken's ids, loading it anew before its memory of words grows too large."""
        self._fed += len(data)
        if self._fed > CACHE_BYTES:
            self._engine, self._fed = _load(self._content), len(data)
        return self._engine.encode(data)

    def _is_odd(self, data: bytes) -> bool:
        """Return whether a text may hold a character that the two engines class differently."""
        return not data.isascii() and any(
            lead in data and any(prefix in data for prefix in prefixes)
            for lead, prefixes in self._odd.items()
        )

    def _checked_engine(self) -> Any:
        """Return gigatoken's encoder of the vocabulary, None where it is not as tiktoken."""
        try:
            self._odd = _odd_prefixes()
            self._engine = _load(self._content)
        except ImportError:
            log.info(ABSENT)
            return None
        except ValueError as error:  # what it cannot load
            log.warning(REFUSED, error)
            return None
        for text in _probes(self._tokenizer):
            if self.encode(text).tolist() != self._tokenizer.encode(text):
                log.warning(REFUSED, f"its ids differ from tiktoken's for {text[:40]!r}")
                return None
        return self._engine


def _utf8(text: str) -> bytes | None:
    """Return a text's bytes, None for lone surrogates (tiktoken has its rule for them)."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return None


def _tokenizer_json(tokenizer: Tokenizer) -> str:
    """Return a vocabulary in the format of `tokenizers`, end-of-text being ordinary text."""
    split = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    model = {
        "type": "BPE",
        "vocab": {symbol: i for i, symbol in enumerate(symbols(tokenizer.merges)[:-1])},
        "merges": [f"{a} {b}" for a, b in tokenizer.merges],
    }
    content = {"version": "1.0", "pre_tokenizer": split, "decoder": split, "model": model}
    return json.dumps(content)


def _load(content: str) -> Any:
    """Load gigatoken for a vocabulary (0.1 s for GPT-2's)."""
    import gigatoken

    return gigatoken.Tokenizer.from_json(content).backend


@cache
def _odd_prefixes() -> dict[bytes, list[bytes]]:
    """Return by leading byte the first two bytes of characters that the engines class differently.

    Raises:
        ValueError: there are too many of them for a difference of Unicode versions.
    """
    proven = PROVEN.get((version("gigatoken"), version("tiktoken")))
    odd = compare() if proven is None else [bytes.fromhex(prefix) for prefix in proven]
    if len(odd) > MAX_ODD:
        raise ValueError(f"it splits texts in another way, from {odd[0]!r} on")
    unchecked = {bytes([lead]): [bytes([lead])] for lead in range(0xF1, 0xF5)}
    return {lead: list(own) for lead, own in groupby(odd, lambda p: p[:1])} | unchecked


def compare() -> list[bytes]:
    """Return the first two bytes of all characters that the engines class differently."""
    tokenizer = Tokenizer(_class_merges())
    engine = _load(_tokenizer_json(tokenizer))
    characters = (chr(c) for c in CLASSED if not 0xD800 <= c < 0xE000)
    odd = []
    for prefix, block in groupby(characters, lambda c: c.encode()[:2]):
        text = "".join(f"{c}'s{c}a{c}1" for c in block)
        if engine.encode(text).tolist() != tokenizer.encode(text):
            odd.append(prefix)
    return odd


def _class_merges() -> list[tuple[str, str]]:
    """Return merges that make the class of a character c visible in the ids of c's, ca and c1.

    The pattern parts 's from all but "other", a from all but letters, 1 from all but numbers.
    """
    symbol = {symbol_bytes(s): s for s in symbols(())[:-1]}
    ends = [symbol[bytes([byte])] for byte in range(0x80, 0xC0)]  # of UTF-8 sequences
    return [("'", "s"), *((end, after) for end in ends for after in "a1")]


def _probes(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield the texts that must encode alike: hostile ones, and all entries of the vocabulary."""
    yield from HOSTILE
    entries = [symbol_bytes(a + b).decode("utf-8", "replace") for a, b in tokenizer.merges]
    for start in range(0, len(entries), 1000):
        for joint in ("", " ", "\n"):
            yield joint.join(entries[start : start + 1000])
