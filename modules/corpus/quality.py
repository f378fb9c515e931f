"""The quality option: our main text, with trafilatura's word on where it begins and ends.

Trafilatura (Barbaresi 2021, ACL demo) is precise but leaves parts of a text out (code, tables,
asides); main_text.py keeps them and now and then a line of the frame before or behind the text.
So the text is ours, cut to what lies between the first and the last block that both have found.
Takes some ten times as long as main_text.py alone.
"""

import re
from dataclasses import replace
from itertools import islice

import trafilatura

from modules.corpus.decode import clean_text
from modules.corpus.main_text import MainText, has_sentence, main_text

MIN_SHARED = 0.25  # of our words; trafilatura has seen another text if it knows fewer of them
RUN = 3  # words; a line is shared if all runs of so many (or itself, if shorter) are
WORD = re.compile(r"[^\W_]+")
HEADING = re.compile(r"<(h[1-6]|dt|caption)\b[^>]*+>(.{0,2000}?)</\1", re.IGNORECASE | re.DOTALL)
MAX_HEADINGS = 1000  # looked at in one page


def _words(text: str) -> tuple[str, ...]:
    """Return the words of a text."""
    return tuple(WORD.findall(text.lower()))


def _runs(words: tuple[str, ...], length: int) -> set[tuple[str, ...]]:
    """Return all runs of so many words."""
    return set(zip(*(words[i:] for i in range(length)), strict=False))


def _headings(html: str) -> set[tuple[str, ...]]:
    """Return the headings of a page, each as its words."""
    found = islice(HEADING.finditer(html), MAX_HEADINGS)
    return {_words(re.sub(r"<[^>]*+>", "", match.group(2))) for match in found}


def cut(ours: str, theirs: str, headings: set[tuple[str, ...]]) -> str:
    """Take the blocks before and behind what both texts have in common away from ours.

    Headings and sentences stay; where the texts share little, the longer one is returned whole.
    """
    lines, their_words = ours.split("\n"), _words(theirs)
    known = {length: _runs(their_words, length) for length in range(1, RUN + 1)}
    words = [_words(line) for line in lines]
    shared = [
        number
        for number, line in enumerate(words)
        if line and _runs(line, length := min(RUN, len(line))) <= known[length]
    ]
    if sum(len(words[number]) for number in shared) < MIN_SHARED * sum(map(len, words)):
        return max(ours, theirs, key=len)
    kept = (
        line
        for number, line in enumerate(lines)
        if shared[0] <= number <= shared[-1] or words[number] in headings or has_sentence(line)
    )
    return "\n".join(kept)


def quality_text(html: str) -> MainText:
    """Return the main text of a page as two extractors see it, its title and its date."""
    found = main_text(html)
    # without its de-duplication, which remembers earlier pages: a page's text is its own
    theirs = trafilatura.extract(html, favor_recall=True, include_comments=False) or ""
    text = cut(clean_text(found.text), clean_text(theirs), _headings(html))
    return replace(found, text=text)
