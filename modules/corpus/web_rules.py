"""Rules of two later web corpora, as options: C4's lines and pages, FineWeb's three shares.

C4: Raffel et al. 2020, section 2.2. FineWeb: Penedo et al. 2024, the custom filters added to C4's
and Gopher's. No replication of WebText has them.
"""

import re
from dataclasses import replace

from modules.corpus.document import Document
from modules.corpus.repetition import lines_of

TERMINAL = (".", "!", "?", '"', "”")  # C4: a full stop, exclamation or question mark, end quote
SENTENCE_END = re.compile(r"[.!?][\"'”’)]*(?=\s|$)")
SHORT_LINE = 30  # FineWeb: characters


def keep_prose_lines(document: Document, *, min_words: int, terminal: bool) -> Document:
    """Keep C4's kind of lines: ended by punctuation, of some words, not about Javascript."""
    lines = lines_of(document.text)
    kept = [
        line
        for line in lines
        if len(line.split()) >= min_words
        and (not terminal or (line.endswith(TERMINAL) and not line.endswith("...")))
        and "javascript" not in line.lower()
    ]
    return document if len(kept) == len(lines) else replace(document, text="\n".join(kept))


def lorem_ipsum(document: Document) -> str | None:
    """Drop pages with placeholder text (C4)."""
    return "lorem ipsum" if "lorem ipsum" in document.text.lower() else None


def curly_brace(document: Document) -> str | None:
    """Drop pages with a curly brace, which are code mostly (C4)."""
    return "a curly brace" if "{" in document.text else None


def few_sentences(document: Document, *, min_sentences: int) -> str | None:
    """Drop pages of few sentences (C4)."""
    count = len(SENTENCE_END.findall(document.text))
    return f"{count} sentences" if count < min_sentences else None


def unwanted_words(document: Document, *, words: frozenset[str]) -> str | None:
    """Drop pages with a word of the user's own list (C4 had a public list of bad words)."""
    found = words.intersection(re.findall(r"\w+", document.text.lower()))
    return min(found) if found else None


def unpunctuated(document: Document, *, max_fraction: float) -> str | None:
    """Drop texts hardly any of whose lines end in punctuation (FineWeb)."""
    lines = lines_of(document.text)
    share = sum(line.endswith(TERMINAL) for line in lines) / max(len(lines), 1)
    return f"{share:.2f} of lines end in punctuation" if share <= max_fraction else None


def line_duplicates(document: Document, *, min_fraction: float) -> str | None:
    """Drop texts with this share of characters in lines seen before (FineWeb)."""
    lines = lines_of(document.text)
    total = sum(map(len, lines))
    share = 1 - sum(map(len, set(lines))) / max(total, 1)
    return f"{share:.2f} of characters are in repeated lines" if share >= min_fraction else None


def short_lines(document: Document, *, min_fraction: float) -> str | None:
    """Drop texts with this share of short lines (FineWeb)."""
    lines = lines_of(document.text)
    share = sum(len(line) < SHORT_LINE for line in lines) / max(len(lines), 1)
    return f"{share:.2f} of lines are short" if share >= min_fraction else None
