"""Invertible de-tokenizers: undo a benchmark's tokenisation, and prove that it can be redone.

GPT-2, section 3.1: because the rules are invertible, the likelihood of the cleaned text is the
likelihood of the data set. The authors' rules were never published and public ones are not
invertible, so here a style (modules/evaluation/styles.py) is a pair: what to undo, and how to do it
again. A gap between two tokens is only closed where doing it all again gives the line back byte for
byte. A line for which that cannot be reached is read as it is, after one space, which no cleaned
text begins with: so `restore` is the inverse of `detokenize` on every line, without a side channel.
Raw lines are counted.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

Rule = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]
NOTHING = re.compile(r"(?!)")


@dataclass(frozen=True)
class Style:
    """One way to tokenise text: what to glue when undoing it, and how to do it again."""

    redo: tuple[Rule, ...]  # substitutions that tokenise natural text, in order
    before: re.Pattern[str] = NOTHING  # tokens without a space before them
    after: re.Pattern[str] = NOTHING  # tokens without a space after them
    infix: dict[str, str] = field(default_factory=dict)  # token -> text, glued on both sides
    between_digits: frozenset[str] = frozenset()  # glued on both sides where digits are
    pairs: frozenset[tuple[str, str]] = frozenset()  # two tokens of one word
    swap: dict[str, str] = field(default_factory=dict)  # token -> text
    quotes: frozenset[str] = frozenset()  # open and close with the same token, in turn
    finish: tuple[Rule, ...] = ()  # substitutions on the whole text: case, full stop


@dataclass(frozen=True)
class Detokenized:
    """Natural text of a line; `kept` gaps stayed as they were, `raw` means all of them did."""

    text: str
    kept: int
    raw: bool


def rules(*pairs: tuple[str, str | Callable[[re.Match[str]], str]]) -> tuple[Rule, ...]:
    """Compile substitutions."""
    return tuple((re.compile(pattern), replacement) for pattern, replacement in pairs)


def substitute(text: str, substitutions: tuple[Rule, ...]) -> str:
    """Apply substitutions in order."""
    for pattern, replacement in substitutions:
        text = pattern.sub(replacement, text)
    return text


def retokenize(text: str, style: Style) -> str:
    """Tokenise natural text in a style, as the benchmark's makers did."""
    return " ".join(token for token in substitute(text, style.redo).split(" ") if token)


def restore(text: str, style: Style) -> str:
    """Return the line that `detokenize` made this text of."""
    return text[1:] if text.startswith(" ") else retokenize(text, style)


def detokenize(line: str, style: Style) -> Detokenized:
    """Return natural text that `restore` turns back into exactly `line`.

    The line comes without line end and outer spaces. Joins that do not survive the way back are
    undone one by one; a line that still does not come back is returned after a space, `raw`.
    """
    tokens = line.split(" ")
    glued = glue(tokens, style)
    wanted = sum(glued)
    for _ in range(len(tokens)):
        text = render(tokens, glued, style)
        again = retokenize(text, style)
        if again == line and not text.startswith(" "):
            return Detokenized(text, kept=wanted - sum(glued), raw=False)
        if not unglue(tokens, again.split(" "), glued, style):
            break
    return Detokenized(" " + line, kept=wanted, raw=True)


def glue(tokens: list[str], style: Style) -> list[bool]:
    """Decide for the gap after each token (but the last) whether it closes."""
    sides = [(bool(style.before.fullmatch(t)), bool(style.after.fullmatch(t))) for t in tokens]
    opened: set[str] = set()
    for i, token in enumerate(tokens):
        earlier, later = tokens[i - 1] if i else "", tokens[i + 1] if i + 1 < len(tokens) else ""
        if earlier and later and token in style.infix:
            sides[i] = (True, True)
        if token in style.between_digits and earlier[-1:].isdigit() and later[:1].isdigit():
            sides[i] = (True, True)
        if token in style.quotes:
            closes = token in opened or (token == "'" and earlier[-1:] in ("s", "z"))
            opened ^= {token} if (token in opened) == closes else set()
            sides[i] = (closes, not closes)
    joined = zip(pairwise(sides), pairwise(tokens), strict=True)
    closed = [a[1] or b[0] or pair in style.pairs for (a, b), pair in joined]
    return [*closed, False]


def render(tokens: list[str], glued: list[bool], style: Style) -> str:
    """Join tokens, closing the glued gaps."""
    pieces: list[str] = []
    for i, token in enumerate(tokens):
        if token in style.infix and i and glued[i - 1] and glued[i]:
            token = style.infix[token]
        pieces.append(style.swap.get(token, token))
        pieces.append("" if glued[i] else " ")
    return substitute("".join(pieces).rstrip(" "), style.finish)


def unglue(tokens: list[str], again: list[str], glued: list[bool], style: Style) -> bool:
    """Open the glued gaps at the first token that came back differently; False if none is left."""
    pairs = zip(tokens, again, strict=False)
    first = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(tokens), len(again)))
    for centre in (first, first - 1, first + 1):
        gaps = [i for i in (centre - 1, centre) if 0 <= i < len(tokens) - 1 and glued[i]]
        for i in gaps:
            glued[i] = False
            for infix, other in ((i, i - 1), (i + 1, i + 1)):  # an infix is closed on both sides
                if tokens[infix] in style.infix and 0 <= other < len(tokens):
                    glued[other] = False
        if gaps:
            return True
    return False


def rates(lines: Iterable[str], style: Style) -> dict[str, int]:
    """Count lines that come back with every join made, with some joins kept open, and raw ones."""
    counts = {"lines": 0, "exact": 0, "partly": 0, "raw": 0}
    for line in lines:
        result = detokenize(line, style)
        counts["lines"] += 1
        counts["raw" if result.raw else "partly" if result.kept else "exact"] += 1
    return counts
