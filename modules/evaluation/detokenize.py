"""Invertible de-tokenizers: undo a benchmark's tokenisation, and prove that it can be redone.

GPT-2, section 3.1: because the rules are invertible, the likelihood of the cleaned text is the
likelihood of the data set. The authors' rules were never published and public ones are not
invertible, so here a style is a pair (glue rules, retokenize), and a gap between two tokens is
only closed where retokenising the whole line gives the line back byte for byte. Where that cannot
be reached the raw line is used; both cases are counted.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from modules.task import Passage, Row, row_id

Rule = tuple[re.Pattern[str], str]
CLITICS = ["'s", "'re", "'ve", "'ll", "'d", "'m"]
TITLES = ["Mr", "Mrs", "Dr"]
ABBREVIATIONS = [
    *TITLES,
    *("Ms", "St", "No", "Nos", "vs", "Jr", "Sr", "Col", "Gen", "Lt", "Inc", "Co", "Bros"),
    *("al", "pp", "v", r"e\.g", r"i\.e", "[A-Z]"),
]
LETTER = r"(?<=[^\W\d]|[>.])"  # what a clitic hangs on; > ends <unk>


@dataclass(frozen=True)
class Style:
    """One way to tokenise text: what to glue when undoing it, and how to do it again."""

    before: frozenset[str]  # tokens without a space before them
    after: frozenset[str]  # tokens without a space after them
    redo: tuple[Rule, ...]  # substitutions that tokenise natural text, in order
    infix: dict[str, str] = field(default_factory=dict)  # token -> text, glued on both sides
    swap: dict[str, str] = field(default_factory=dict)  # token -> text
    alternate: frozenset[str] = frozenset()  # quotes that open and close with the same token


@dataclass(frozen=True)
class Detokenized:
    """Natural text of a line; `kept` gaps stayed as they were, `raw` means all of them did."""

    text: str
    kept: int
    raw: bool


def rules(*pairs: tuple[str, str]) -> tuple[Rule, ...]:
    """Compile substitutions."""
    return tuple((re.compile(pattern), replacement) for pattern, replacement in pairs)


def clitics(extra: str) -> tuple[str, str]:
    """Return the rule that splits 's, 're, ... and n't (or 't) from the word."""
    return (rf"{LETTER}({extra}|{'|'.join(CLITICS)})(?!\w)", r" \1")


def stops(closing: str) -> tuple[str, str]:
    """Return the rule that splits , ; : ! ? where a word ends."""
    return (rf"(?<=\S)([,;:!?])(?=[,;:!?.]*(?:[\s{closing}]|$))", r" \1 ")


def period(closing: str, abbreviations: list[str], after: str) -> tuple[str, str]:
    """Return the rule that splits a full stop from a word that is no abbreviation."""
    keep = "".join(rf"(?<!\b{word})" for word in abbreviations)
    return (rf"(?<={after}){keep}\.(?=[\s{closing}]|$)", " . ")


HYPHEN = (r"(?<=[\w>])-(?=[\w<])", " @-@ ")
NUMBER = ((r"(?<=[\d>]),(?=[\d<])", " @,@ "), (r"(?<=[\d>])\.(?=[\d<])", " @.@ "))
DASH = (r"(?<=[^\s-])--(?=[^\s-])", " -- ")
INFIX = {"@-@": "-", "@,@": ",", "@.@": "."}
ENDS = frozenset([",", ".", ";", ":", "!", "?", ")", "]"])
CLOSING = r"\"()\[\]"

WIKITEXT_STYLE = Style(
    before=ENDS | {"..", "n't", *CLITICS},
    after=frozenset({"(", "["}),
    redo=rules(
        HYPHEN,
        *NUMBER,
        (r'(["()\[\]])', r" \1 "),
        DASH,
        stops(CLOSING),
        period(CLOSING, TITLES, r"\S"),
        clitics("n't"),
    ),
    infix=INFIX | {"--": "--"},
    alternate=frozenset('"'),
)
"""The sample set's wikitext_style: as WikiText, but contractions as in the Penn Treebank."""

WIKITEXT = Style(
    before=ENDS | {"'t", "%", "°", "'", *CLITICS},
    after=frozenset({"(", "[", "$", "£", "¥", "#"}),
    redo=rules(
        HYPHEN,
        *NUMBER,
        (r'(["()\[\]/])', r" \1 "),
        (r"([$£¥#])(?=[\w<])", r"\1 "),
        (r"(?<=[\w>])([%°])", r" \1"),
        stops(CLOSING),
        period(CLOSING, ABBREVIATIONS, r"[^\s.]"),
        (r"(?<=[sz>])'(?=[\s\"()\[\],.;:]|$)", " '"),
        clitics("'t"),
    ),
    infix=INFIX | {"/": "/"},
    alternate=frozenset('"'),
)
"""The released WikiText-2 and WikiText-103 files (word level, with <unk>)."""

TREEBANK = Style(
    before=ENDS - {")", "]"} | {"..", "n't", "''", "-RRB-", *CLITICS},
    after=frozenset({"``", "-LRB-"}),
    redo=rules(
        (r'(?:(?<=\s)|(?<=^)|(?<=\())"(?=\S)', " `` "),
        (r'"', " '' "),
        (r"\(", " -LRB- "),
        (r"\)", " -RRB- "),
        DASH,
        stops(""),
        period("", TITLES, r"\S"),
        clitics("n't"),
    ),
    infix={"--": "--"},
    swap={"``": '"', "''": '"', "-LRB-": "(", "-RRB-": ")"},
)
"""Penn Treebank tokens with punctuation, as parsers print them."""

PTB = Style(before=frozenset({"n't", *CLITICS}), after=frozenset(), redo=rules(clitics("n't")))
"""Mikolov's PTB: lower case, no punctuation, N for numbers, <unk>; only clitics can be undone."""


def retokenize(text: str, style: Style) -> str:
    """Tokenise natural text in a style: the inverse of `detokenize`."""
    for pattern, replacement in style.redo:
        text = pattern.sub(replacement, text)
    return " ".join(text.split())


def detokenize(line: str, style: Style) -> Detokenized:
    """Return natural text that `retokenize` turns back into exactly `line`.

    The line comes without line end and outer spaces. Joins that do not survive the way back are
    undone one by one; a line that still does not come back is returned as it is, `raw`.
    """
    tokens = line.split(" ")
    glued = glue(tokens, style)
    wanted = sum(glued)
    for _ in range(len(tokens)):
        text = render(tokens, glued, style)
        again = retokenize(text, style)
        if again == line:
            return Detokenized(text, kept=wanted - sum(glued), raw=False)
        if not unglue(tokens, again.split(" "), glued, style):
            break
    return Detokenized(line, kept=wanted, raw=True)


def glue(tokens: list[str], style: Style) -> list[bool]:
    """Decide for the gap after each token (but the last) whether it closes."""
    glued = [False] * len(tokens)
    opened: dict[str, bool] = {}
    for i, token in enumerate(tokens):
        left, right = token in style.before, token in style.after
        if token in style.infix and 0 < i < len(tokens) - 1:
            left = right = True
        if token in style.alternate:
            opened[token] = not opened.get(token, False)
            left, right = not opened[token], opened[token]
        if left and i:
            glued[i - 1] = True
        if right and i < len(tokens) - 1:
            glued[i] = True
    return glued


def render(tokens: list[str], glued: list[bool], style: Style) -> str:
    """Join tokens, closing the glued gaps."""
    pieces: list[str] = []
    for i, token in enumerate(tokens):
        if token in style.infix and i and glued[i - 1] and glued[i]:
            token = style.infix[token]
        pieces.append(style.swap.get(token, token))
        pieces.append("" if glued[i] else " ")
    return "".join(pieces).rstrip(" ")


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


def natural(column: str, style: Style) -> Callable[[list[Row]], list[Passage]]:
    """Return the items of tokenised rows as natural text, scored per token of the file."""
    return lambda rows: [passage(row, i, column, style) for i, row in enumerate(rows)]


def raw(column: str) -> Callable[[list[Row]], list[Passage]]:
    """Return the items of tokenised rows as they are."""
    return lambda rows: [passage(row, i, column, None) for i, row in enumerate(rows)]


def passage(row: Row, number: int, column: str, style: Style | None) -> Passage:
    """Return one line: the model reads it with its line end, which is a unit too (WikiText)."""
    line = row[column].strip()
    result = detokenize(line, style) if style else Detokenized(line, kept=0, raw=False)
    return Passage(
        row_id(row, number),
        result.text + "\n",
        units=len(line.split()) + 1,
        original=line + "\n",
        domain=row.get("domain", ""),
        fallback=result.raw,
    )
