"""Rows of the language-modelling sets as running text (GPT-2, section 3.1; gpt2.md 5.1).

The units are the set's own: its tokens and one end of line per line (WikiText, PTB, 1BW), bytes
(enwik8), characters (text8). Text that runs over the rows is cut into passages that know what comes
before them, so that every token has its context and each passage has a score of its own.
"""

import re
from collections.abc import Iterator
from itertools import pairwise

from modules.evaluation.detokenize import Style, detokenize
from modules.task import Items, Passage, Row, row_id

HEADING = re.compile(r"= [^=].*[^=] =|= [^=] =")  # of an article; sections have = = twice
LINES = 50  # lines of a passage cut from a stream
PIECE = 2**14  # characters of a passage cut from a raw text
BEFORE = 2**13  # characters of context a passage brings: more than 1,024 tokens of English
CUT = re.compile(r"(?<=\S\n)(?=\S)|(?<=\S)(?= \S)")  # where no token of GPT-2's crosses


def passage(
    name: str, lines: list[str], style: Style | None, *, before: str = "", domain: str = ""
) -> Passage:
    """Return lines of tokens as one passage; the model reads each with its line end."""
    read = [detokenize(line, style) for line in lines] if style else []
    return Passage(
        name,
        "".join(line.text + "\n" for line in read) or "".join(line + "\n" for line in lines),
        units=sum(len(line.split()) + 1 for line in lines),  # <eos>, as WikiText counts
        original="".join(line + "\n" for line in lines),
        domain=domain,
        fallback=sum(line.raw for line in read),
        before=before[-BEFORE:],
    )


def sentences(column: str, style: Style | None) -> Items:
    """Make each row a passage of its own: 1BW's sentences are shuffled."""

    def items(rows: list[Row]) -> list[Passage]:
        return [
            passage(row_id(r, i), [r[column].strip()], style, domain=r.get("domain", ""))
            for i, r in enumerate(rows)
        ]

    return items


def articles(column: str, style: Style | None) -> Items:
    """Make rows of lines into one passage per article: it begins with its heading (WikiText)."""

    def items(rows: list[Row]) -> list[Passage]:
        found: list[list[str]] = []
        for row in rows:
            line = row[column].strip()
            if not found or (HEADING.fullmatch(line) and not found[-1][-1]):
                found.append([])
            found[-1].append(line)
        kept = merged_blank(found)
        return [passage(str(i), lines, style) for i, lines in enumerate(kept)]

    return items


def merged_blank(groups: list[list[str]]) -> list[list[str]]:
    """Put blank lines before the first article into it."""
    if len(groups) > 1 and not any(groups[0]):
        return [groups[0] + groups[1], *groups[2:]]
    return groups


def stream(column: str, style: Style | None) -> Items:
    """Make rows of lines that follow each other into passages with context (PTB)."""

    def items(rows: list[Row]) -> list[Passage]:
        found: list[Passage] = []
        before = ""
        for start in range(0, len(rows), LINES):
            lines = [row[column].strip() for row in rows[start : start + LINES]]
            found.append(passage(str(start), lines, style, before=before))
            before = (before + found[-1].text)[-BEFORE:]
        return found

    return items


def raw_text(column: str = "text") -> Items:
    """Make the lines of one raw text into passages with context, scored per byte (enwik8, text8).

    text8's characters are bytes.
    """

    def items(rows: list[Row]) -> list[Passage]:
        text = "\n".join(row[column] for row in rows)
        cuts = [0, *cut_points(text), len(text)]
        parts = [(a, text[a:b]) for a, b in pairwise(cuts) if b > a]
        return [
            Passage(str(a), part, len(part.encode()), before=text[max(0, a - BEFORE) : a])
            for a, part in parts
        ]

    return items


def cut_points(text: str) -> Iterator[int]:
    """Yield where to cut a text, at most PIECE characters apart."""
    start = 0
    while len(text) - start > PIECE:
        window = text[start : start + PIECE]
        found = [m.start() for m in CUT.finditer(window, PIECE - PIECE // 16)]
        start += found[-1] if found else PIECE
        yield start


def last_bytes(count: int, column: str = "text") -> Items:
    """Keep the last bytes of a text in lines: the test part of enwik8 and text8 (gpt2.md 5.1).

    A character cut in two at the beginning is left out.
    """

    def pick(rows: list[Row]) -> list[Row]:
        kept: list[Row] = []
        room = count
        for row in reversed(rows):
            line = row[column].encode()[-room:].decode(errors="ignore")
            kept.append({**row, column: line})
            room -= len(row[column].encode()) + 1  # its line end
            if room <= 0:
                break
        return kept[::-1]

    return pick
