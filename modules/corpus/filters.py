"""Reasons to drop a document, one function each, and what a step of a recipe is.

A predicate takes a document and its settings and returns why the document goes (the detail kept
beside it), or None to keep it. The reason itself is the predicate's name. GPT-2's paper names
language, Wikipedia and "some heuristic based cleaning" (section 2.1, 3.7); the public WebText
replications add a length rule; the quality rules are Gopher's (Rae et al. 2021, "Scaling Language
Models", appendix A.1.1 and Table A1), whose numbers they use unless a line says otherwise.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import filterfalse
from typing import Any
from urllib.parse import urlsplit

from modules.corpus.document import Document
from modules.corpus.language import detect_language
from modules.corpus.repetition import lines_of

STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}  # Gopher, appendix A.1.1
BULLETS = ("•", "‣", "◦", "▪", "●", "- ", "* ")  # Gopher names bullet points without a list
ELLIPSES = ("...", "…")


@dataclass(frozen=True)
class Dropped:
    """A document that goes, and why."""

    document: Document
    reason: str
    detail: str


Step = Callable[[Document], Document | Dropped]
Predicate = Callable[..., str | None]


def drop(predicate: Predicate, **settings: Any) -> Step:
    """Make a step that drops the documents a predicate gives a detail for."""
    check, reason = partial(predicate, **settings), predicate.__name__

    def step(document: Document) -> Document | Dropped:
        detail = check(document)
        return document if detail is None else Dropped(document, reason, detail)

    step.__name__ = reason
    return step


def reasons(steps: Iterable[Step]) -> list[str]:
    """Return the reasons for which steps may drop a document, in order."""
    return [step.__name__ for step in steps if hasattr(step, "__name__")]  # a rewrite has none


def rewrite(change: Callable[..., Document], **settings: Any) -> Step:
    """Make a step that changes documents and drops none."""
    return partial(change, **settings)


def apply(steps: Iterable[Step], document: Document) -> Document | Dropped:
    """Take one document through steps in order, up to the first that drops it."""
    for step in steps:
        result = step(document)
        if isinstance(result, Dropped):
            return result
        document = result
    return document


@lru_cache(maxsize=1)  # the rules look at one text after the other
def words_of(text: str) -> list[str]:
    """Return the words between blanks, counted once for all rules; not to be changed."""
    return text.split()


# --- rewriting ---


def fix_unicode(document: Document) -> Document:
    r"""Replace lone surrogates and NUL, end lines with \n, strip blanks around the text."""
    text = document.text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "").strip()
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return document if text == document.text else replace(document, text=text)


def tag_language(document: Document) -> Document:
    """Set the document's language and, in meta, how probable it is."""
    language, probability = detect_language(document.text)
    meta = document.meta | {"lang_probability": round(probability, 4)}
    return replace(document, lang=language, meta=meta)


# --- reasons ---


def empty(document: Document) -> str | None:
    """Drop documents without text."""
    return None if document.text else "no text"


def from_wikipedia(document: Document) -> str | None:
    """Drop pages of wikipedia.org and its mirrors' hosts by language (GPT-2 paper, section 2.1)."""
    host = (urlsplit(document.url).hostname or "").rstrip(".")
    return host if host == "wikipedia.org" or host.endswith(".wikipedia.org") else None


def other_language(
    document: Document, *, languages: tuple[str, ...], min_probability: float
) -> str | None:
    """Drop text that is surely in a language nobody asked for (GPT-2 paper, section 3.7).

    Tables of identifiers look like no language; they are left to the quality rules.
    """
    probability = document.meta["lang_probability"]
    if document.lang in languages or probability < min_probability:
        return None
    return f"{document.lang} {probability:.2f}"


def too_short(document: Document, *, min_words: int) -> str | None:
    """Drop texts of few words (the replications of WebText: under 128 tokens)."""
    words = len(document.text.split(maxsplit=min_words))  # no more are looked for
    return f"{words} words" if words < min_words else None


def too_long(document: Document, *, max_words: int) -> str | None:
    """Drop texts of very many words: logs and dumps, mostly."""
    words = len(words_of(document.text))
    return f"{words} words" if words > max_words else None


def odd_word_length(document: Document, *, low: float, high: float) -> str | None:
    """Drop texts whose mean word length no prose has."""
    words = words_of(document.text)
    mean = len("".join(words)) / max(len(words), 1)
    return None if low <= mean <= high else f"mean word length {mean:.1f}"


def symbol_heavy(document: Document, *, max_ratio: float) -> str | None:
    """Drop texts with many hash signs or ellipses for their words."""
    text, words = document.text, max(len(words_of(document.text)), 1)
    worst = max(text.count("#"), text.count("...") + text.count("…")) / words
    return f"{worst:.2f} symbols a word" if worst > max_ratio else None


def bullet_list(document: Document, *, max_fraction: float) -> str | None:
    """Drop texts nearly all of whose lines are bullet points."""
    lines = lines_of(document.text)
    share = sum(line.startswith(BULLETS) for line in lines) / max(len(lines), 1)
    return f"{share:.2f} of lines are bullets" if share > max_fraction else None


def cut_lines(document: Document, *, max_fraction: float) -> str | None:
    """Drop texts many of whose lines end in an ellipsis: teasers and search results."""
    lines = lines_of(document.text)
    share = sum(line.endswith(ELLIPSES) for line in lines) / max(len(lines), 1)
    return f"{share:.2f} of lines end in an ellipsis" if share > max_fraction else None


def few_letters(document: Document, *, min_fraction: float) -> str | None:
    """Drop texts where too few words hold a letter."""
    words = words_of(document.text)
    others = list(filterfalse(str.isalpha, words))
    holding = len(words) - len(others)
    holding += sum(word[0].isalpha() or any(map(str.isalpha, word)) for word in others)
    share = holding / max(len(words), 1)
    return f"{share:.2f} of words hold a letter" if share < min_fraction else None


def no_stop_words(document: Document, *, min_count: int) -> str | None:
    """Drop texts without the commonest English words: no running text."""
    if len(STOP_WORDS.intersection(words_of(document.text))) >= min_count:
        return None  # nearly every text; the rest is looked at more closely
    found = STOP_WORDS.intersection(re.findall(r"[a-z]+", document.text.lower()))
    return f"{len(found)} different stop words" if len(found) < min_count else None
