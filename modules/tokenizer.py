"""Byte-level BPE (GPT-2 paper, section 2.2): train, save, load, encode, decode.

On disk a tokenizer is OpenAI's two files: `encoder.json` (symbol -> id) and `vocab.bpe` (a header,
then the merges in order). Ids are laid out as OpenAI's: 256 byte symbols, the merges in order,
end-of-text last; so Hugging Face reads the same files as vocab.json and merges.txt. Training is
done by `tokenizers`, encoding by `tiktoken` (same ids, ten times as fast).
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path

import tiktoken
from pydantic import Field

from modules.config import Config
from modules.files import Progress, silent, write_bytes

log = logging.getLogger(__name__)

END_OF_TEXT = "<|endoftext|>"
HEADER = "#version: 0.2"
FILE_NAMES = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))  # OpenAI's, HF's

# The split pattern of openai/gpt-2:src/encoder.py, in tiktoken's equal form: possessive
# quantifiers do not backtrack, so that a million equal characters do not overflow a stack.
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""

# `\s+(?!\S)` must still give one character back, which overflows tiktoken's stack (a panic) near
# a million blanks in a row: long runs are cut where the pattern cuts them anyway.
LONG_RUN = 2**16  # characters
_BLANK = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # Unicode White_Space
_LONG_BLANKS = re.compile(f"(?<![{_BLANK}])[{_BLANK}]{{{LONG_RUN},}}+")

SMALLER = "the corpus supports a vocabulary of %d, not the %d asked for"
CHECK_CHARACTERS = 1_000_000  # of training text encoded by both libraries after training


class TokenizerConfig(Config):
    """How the byte-level BPE vocabulary is trained; the split pattern is always GPT-2's."""

    vocab_size: int = Field(default=50257, ge=257)  # GPT-2 paper, section 2.3
    """Entries in all: 256 bytes, the merges and end-of-text."""

    min_frequency: int = Field(default=2, ge=1)
    """A pair seen less often is never merged, so a small corpus may give fewer entries."""

    max_bytes: int | None = Field(default=None, ge=1)
    """Read at most this much text (documents come in hash order: a prefix is a random sample)."""


class Tokenizer:
    """GPT-2's byte-level BPE with a given list of merges.

    Attributes:
        n_vocab: number of ids, end-of-text included.
        eot: id of end-of-text, the last one; text never encodes to it.
        merges: pairs of symbols in order of priority.
    """

    def __init__(self, merges: Sequence[tuple[str, str]]) -> None:
        """Build the encoder of these merges; `load` has checked those of a file."""
        self.merges = tuple(merges)
        ranks = {bytes([byte]): i for i, byte in enumerate(_BYTES)}
        ranks |= {symbol_bytes(a + b): i for i, (a, b) in enumerate(self.merges, len(ranks))}
        assert len(ranks) == 256 + len(self.merges), "two merges make the same symbol"
        self.eot = len(ranks)
        self.n_vocab = self.eot + 1
        self._encoding = tiktoken.Encoding(
            "textmill",
            pat_str=PATTERN,
            mergeable_ranks=ranks,
            special_tokens={END_OF_TEXT: self.eot},
            explicit_n_vocab=self.n_vocab,
        )

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; the end-of-text spelling is ordinary text."""
        parts = _parts(text)
        if len(parts) == 1:
            return self._encoding.encode_ordinary(text)
        return list(chain.from_iterable(map(self._encoding.encode_ordinary, parts)))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, in order."""
        return [self.encode(text) for text in texts]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes that ids stand for.

        Raises:
            ValueError: an id is outside the vocabulary.
        """
        checked = [int(i) for i in ids]
        for i in checked:
            if not 0 <= i < self.n_vocab:
                raise ValueError(f"token id {i} is outside the vocabulary of {self.n_vocab}")
        return self._encoding.decode_bytes(checked)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def files(self) -> dict[str, bytes]:
        """Return the content of encoder.json and vocab.bpe, as OpenAI writes them."""
        encoder = {symbol: i for i, symbol in enumerate(symbols(self.merges))}
        merges = "\n".join([HEADER, *(f"{a} {b}" for a, b in self.merges), ""])
        return {"encoder.json": json.dumps(encoder).encode(), "vocab.bpe": merges.encode()}

    def save(self, out: Path) -> None:
        """Write the two files into a directory."""
        for name, content in self.files().items():
            write_bytes(out / name, content)

    @cached_property
    def sha256(self) -> str:
        """Return one hash for the vocabulary, equal for every copy of it."""
        return hashlib.sha256(b"\0".join(self.files().values())).hexdigest()


def load(directory: Path) -> Tokenizer:
    """Load a tokenizer from its two files, OpenAI's or Hugging Face's names.

    Raises:
        FileNotFoundError: the directory lacks them.
        ValueError: a file is damaged or the two do not belong together.
    """
    encoder_path, merges_path = _find_files(directory)
    merges = _read_merges(merges_path)
    encoder = _read_encoder(encoder_path)
    expected = symbols(merges)
    if len(encoder) != len(expected):
        raise ValueError(
            f"{encoder_path}: {len(encoder)} entries, but {merges_path.name} needs "
            f"{len(expected)}: take both files from the same tokenizer"
        )
    for i, symbol in enumerate(expected):
        if encoder.get(symbol) != i:
            raise ValueError(
                f"{encoder_path}: {symbol!r} has id {encoder.get(symbol)}, expected {i}: ids must "
                "be OpenAI's (bytes, merges in order, end-of-text last)"
            )
    return Tokenizer(merges)


def train(
    texts: Iterable[str], out: Path, config: TokenizerConfig, progress: Progress = silent
) -> dict[str, int]:
    """Train a vocabulary on texts and write encoder.json and vocab.bpe; return counts.

    The same texts in the same order give the same bytes; no text at all is a ValueError.
    """
    from tokenizers import Tokenizer as Trainee
    from tokenizers import models, pre_tokenizers, trainers

    trainee = Trainee(models.BPE())
    trainee.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size - 1,  # end-of-text is appended by us
        min_frequency=config.min_frequency,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    feed = _Feed(texts, config.max_bytes, progress)
    trainee.train_from_iterator(feed, trainer)
    if not feed.documents:
        raise ValueError("no text to train a tokenizer on: the documents are empty")
    tokenizer = Tokenizer(_unique(json.loads(trainee.to_str())["model"]["merges"]))
    _check_against_tokenizers(tokenizer, feed.sample)
    if tokenizer.n_vocab < config.vocab_size:
        log.warning(SMALLER, tokenizer.n_vocab, config.vocab_size)
    tokenizer.save(out)
    counts = {"vocab_size": tokenizer.n_vocab, "merges": len(tokenizer.merges)}
    return counts | {"documents": feed.documents, "bytes": feed.bytes}


class _Feed:
    """Hand texts to the trainer, counting them and keeping a sample for the check after it."""

    def __init__(self, texts: Iterable[str], max_bytes: int | None, progress: Progress) -> None:
        self.texts, self.max_bytes, self.progress = texts, max_bytes, progress
        self.documents = self.bytes = self.sampled = 0
        self.sample: list[str] = []

    def __iter__(self) -> Iterator[str]:
        for text in self.texts:
            if self.max_bytes is not None and self.bytes >= self.max_bytes:
                return
            self.documents += 1
            self.bytes += len(text.encode("utf-8", "replace"))
            if self.sampled < CHECK_CHARACTERS:
                self.sample.append(text[:CHECK_CHARACTERS])
                self.sampled += len(text)
            if self.documents % 1000 == 0:
                self.progress(self.bytes, self.max_bytes or 0, f"{self.documents} documents read")
            yield text


def _unique(merges: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Leave out a merge whose symbol an earlier one already makes (one symbol, one id)."""
    first: dict[str, tuple[str, str]] = {}
    for a, b in merges:
        first.setdefault(a + b, (a, b))
    return list(first.values())


def _check_against_tokenizers(tokenizer: Tokenizer, texts: list[str]) -> None:
    """Assert that tiktoken's reading of the new vocabulary is that of the merge list."""
    from tokenizers import Tokenizer as Reference
    from tokenizers import models, pre_tokenizers

    vocabulary = {symbol: i for i, symbol in enumerate(symbols(tokenizer.merges))}
    reference = Reference(models.BPE(vocab=vocabulary, merges=list(tokenizer.merges)))
    reference.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for text in texts:
        assert tokenizer.encode(text) == reference.encode(text).ids, (
            f"tiktoken and tokenizers disagree on the new vocabulary, text {text[:60]!r}"
        )


def _parts(text: str) -> list[str]:
    """Split a text with huge runs of blanks where the pattern splits it in any case.

    Of a run of blanks before a non-blank, all but the last are one piece.
    """
    if len(text) <= LONG_RUN:
        return [text]
    cuts = [m.end() - 1 for m in _LONG_BLANKS.finditer(text) if m.end() < len(text)]
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def _byte_order() -> list[int]:
    """Return the 256 bytes in the order of their ids (openai/gpt-2:src/encoder.py)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return printable + [byte for byte in range(256) if byte not in set(printable)]


_BYTES = _byte_order()
_CHARACTERS = [chr(byte) for byte in _BYTES[:188]] + [chr(256 + i) for i in range(68)]
_BYTE_OF = dict(zip(_CHARACTERS, _BYTES, strict=True))


def symbol_bytes(symbol: str) -> bytes:
    """Return the bytes that a symbol of encoder.json stands for."""
    return bytes(map(_BYTE_OF.__getitem__, symbol))


def symbols(merges: Iterable[tuple[str, str]]) -> list[str]:
    """Return all symbols in the order of their ids."""
    return [*_CHARACTERS, *(a + b for a, b in merges), END_OF_TEXT]


def _find_files(directory: Path) -> tuple[Path, Path]:
    """Return the paths of the two files."""
    for encoder, merges in FILE_NAMES:
        if (directory / encoder).exists() and (directory / merges).exists():
            return directory / encoder, directory / merges
    raise FileNotFoundError(
        f"{directory}: no encoder.json with vocab.bpe (or vocab.json with merges.txt) in it: "
        "name a directory that holds both files of a tokenizer"
    )


def _read_merges(path: Path) -> list[tuple[str, str]]:
    """Read the merges, checking that each joins two symbols known by then into a new one."""
    lines = path.read_bytes().decode(errors="replace").split("\n")
    known = set(_CHARACTERS)
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(lines, 1):
        if (number == 1 and line.startswith("#version")) or (number == len(lines) and not line):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not known.issuperset(pair) or "".join(pair) in known:
            raise ValueError(
                f"{path}, line {number}: {line[:40]!r} does not join two symbols of earlier lines "
                "into a new one: the file is damaged or not byte-level BPE, copy it again"
            )
        known.add("".join(pair))
        merges.append((pair[0], pair[1]))
    return merges


def _read_encoder(path: Path) -> dict[str, int]:
    """Read the table from symbol to id."""
    try:
        table = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}): copy the file again") from None
    if not isinstance(table, dict):
        raise ValueError(f"{path}: expected one object of symbol -> id, got {type(table).__name__}")
    return table
