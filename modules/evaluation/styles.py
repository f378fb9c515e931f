"""How the benchmarks of GPT-2's Table 3 were tokenised, as rule pairs for detokenize.py.

What each undoes is listed in gpt2.md, section 5.2; unlike the public rules every one can be redone.
Letter case and full stops come back where a rule can take them away again: a file that is lower
case throughout loses nothing by capitals that `lower` removes. What cannot come back stays as the
file has it: PTB's inner punctuation, its numbers (all N) and rare words (<unk>). enwik8 and text8
have nothing to undo.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from re import Match

from modules.evaluation.detokenize import Rule, Style, rules

CLITIC = r"'(?:s|re|ve|ll|d|m)"
LETTER = r"(?<=[^\W\d]|[>.])"  # what a clitic hangs on; > ends <unk>
CLOSING = r"\"()\[\]'"
INFIX = {"@-@": "-", "@,@": ",", "@.@": "."}
BRACKETS = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]"}
WHOLE = {"cannot": "can not", "Cannot": "Can not", "gonna": "gon na", "gotta": "got ta"}
PAIRS = frozenset((text.split()[0], text.split()[1]) for text in WHOLE.values())

TITLES = ["Mr", "Mrs", "Dr"]
ABBREVIATIONS = [
    *TITLES,
    *("Ms", "St", "No", "Nos", "vs", "Jr", "Sr", "Col", "Gen", "Lt", "Inc", "Co", "Bros"),
    *("al", "pp", "v", r"e\.g", r"i\.e", "[A-Z]"),
]
NEWS_ABBREVIATIONS = re.compile(
    r"Mrs?|Dr|Ms|St|Nos?|vs|Jr|Sr|Col|Gen|Lt|Inc|Co|Bros|Reps?|Sens?|Gov|Capt|Sgt|Maj|Prof|Rev|Hon"
    r"|Corp|Ltd|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|Ft|Mt|Adm|Cmdr|Atty|Brig|Supt|Messrs"
    r"|v|al|pp|[A-Z]"
)
NAMES = "mr|mrs|ms|dr|sen|rep|gov|corp|inc|co|ltd|jan|feb|aug|sept|oct|nov|dec"
DAYS = "monday|tuesday|wednesday|thursday|friday|saturday|sunday"
MONTHS = "january|february|april|june|july|august|september|october|november|december"


def clitics(extra: str) -> tuple[str, str]:
    """Return the rule that splits 's, 're, ... and n't (or 't) from the word."""
    return (rf"{LETTER}({extra}|{CLITIC})(?!\w)", r" \1")


def stops(closing: str) -> tuple[str, str]:
    """Return the rule that splits , ; : ! ? where a word ends."""
    return (rf"(?<=\S)([,;:!?])(?=[,;:!?.]*(?:[\s{closing}]|$))", r" \1 ")


def period(closing: str, abbreviations: list[str], after: str) -> tuple[str, str]:
    """Return the rule that splits a full stop from a word that is no abbreviation."""
    keep = "".join(rf"(?<!\b{word})" for word in abbreviations)
    return (rf"(?<={after}){keep}\.(?=[\s{closing}]|$)", " . ")


def final_period(match: Match[str]) -> str:
    """Split a sentence's full stop unless the word is an abbreviation or has one inside (Moses)."""
    word = match[1]
    inside = "." in word and any(letter.isalpha() for letter in word)
    return match[0] if inside or NEWS_ABBREVIATIONS.fullmatch(word) else f"{word} . "


def two_words(match: Match[str]) -> str:
    """Split cannot and gonna."""
    return WHOLE[match[0]]


def lower(match: Match[str]) -> str:
    """Take capitals away."""
    return match[0].lower()


def upper(match: Match[str]) -> str:
    """Give capitals back."""
    return match[0].upper()


def title(match: Match[str]) -> str:
    """Give a capital back."""
    return match[0].capitalize()


HYPHEN = (r"(?<=[\w>])-(?=[\w<])", " @-@ ")
NUMBER = ((r"(?<=[\d>]),(?=[\d<])", " @,@ "), (r"(?<=[\d>])\.(?=[\d<])", " @.@ "))
DASH = (r"(?<=[^\s-])--(?=[^\s-])", " -- ")
SPLIT_PAIRS = (rf"\b(?:{'|'.join(WHOLE)})\b", two_words)
MOSES_PERIOD = (r"(?<!\S)(\S*[^\s.])\.(?=\s*$|\s+[^a-z\s])", final_period)
OPENS = (rf"(?<![^\s\"(\[])(?!{CLITIC}\b|'t\b)'(?=[\w<])", "' ")  # a single quote
CLOSES = (r"(?<=[^\s'])'(?![\w<'])", " '")  # the same, and the genitive of a plural
CAPITALS = (r"\b(?!N\b(?!\.))[^\W\d_]+", lower)  # all but PTB's N
FIRST_LETTER = (r"^\W?[a-z]", upper)
SENTENCES = (r"(?<=[.!?] )\"?[a-z]|(?<=\.\" )[a-z]", upper)
PRONOUN = (r"(?<!\S)\"?i\b(?![.-])", upper)
PROPER = (rf"\b(?:{NAMES})\.|\b(?:{DAYS}|{MONTHS})\b", title)
ACRONYMS = (r"\b(?!a\.m|p\.m)(?:[a-z]\.){2,}", upper)

WIKITEXT_STYLE = Style(
    before=re.compile(rf"[,.;:!?)\]]|\.\.|n't|{CLITIC}"),
    after=re.compile(r"[(\[]"),
    redo=rules(
        HYPHEN,
        *NUMBER,
        DASH,
        (r'(["()\[\]])', r" \1 "),
        stops(CLOSING),
        period(CLOSING, TITLES, r"\S"),
        clitics("n't"),
    ),
    infix=INFIX | {"--": "--"},
    quotes=frozenset('"'),
)
"""The sample set's wikitext_style: as WikiText, but contractions as in the Penn Treebank."""

WIKITEXT = Style(
    before=re.compile(r"[,.;:!?)\]%°]|'\w+"),
    after=re.compile(r"[(\[$£¥#]"),
    redo=rules(
        HYPHEN,
        *NUMBER,
        (r'(["()\[\]/])', r" \1 "),
        (r"([$£¥#])(?=[\w<])", r"\1 "),
        (r"(?<=[\w>])([%°])", r" \1"),
        stops(CLOSING),
        period(CLOSING, ABBREVIATIONS, r"[^\s.]"),
        OPENS,
        CLOSES,
        (r"(?<=[\w>.])'(?=\w)", " '"),
    ),
    infix=INFIX | {"/": "/"},
    quotes=frozenset("\"'"),
)
"""The released WikiText-2 and WikiText-103 files (word level, with <unk>)."""

ONE_BILLION_WORDS = Style(
    before=re.compile(r"[,.;:!?)\]%]|\.{2,}|'\w.*"),
    after=re.compile(r"[(\[$£€#]"),
    redo=rules(
        (r"([\"()\[\]/%$£€#:;!?&*+|@_])", r" \1 "),
        (r"(?<!\d),|,(?!\d)", " , "),
        (r"(\.{2,})", r" \1 "),
        (r"(?<!\w)'|'(?!\w)", " ' "),
        (r"(?<=\w)'(?=\w)", " '"),
        MOSES_PERIOD,
    ),
    infix={"/": "/"},
    between_digits=frozenset(":"),
    quotes=frozenset("\"'"),
)
"""The One Billion Word Benchmark: news in the manner of Moses' tokenizer."""

TREEBANK = Style(
    before=re.compile(rf"[,.;:!?]|\.\.|n't|''|-RRB-|{CLITIC}"),
    after=re.compile(r"``|-LRB-"),
    redo=rules(
        DASH,
        (r'(?:(?<=\s)|(?<=^)|(?<=\())"(?=\S)', " `` "),
        (r'"', " '' "),
        (r"\(", " -LRB- "),
        (r"\)", " -RRB- "),
        stops(""),
        period("", TITLES, r"\S"),
        clitics("n't"),
    ),
    infix={"--": "--"},
    swap={"``": '"', "''": '"', "-LRB-": "(", "-RRB-": ")"},
)
"""The sample set's treebank_style: as Penn Treebank tokens, single quotes left where they were."""


def penn(
    full_stop: tuple[str, str | Callable[[Match[str]], str]], *first: Rule
) -> tuple[Rule, ...]:
    """Return the rules of a parser's tokenizer."""
    return first + rules(
        (r'(?:(?<=[\s(\[])|^)"(?=\S)', " `` "),
        (r'"', " '' "),
        *((re.escape(text), f" {token} ") for token, text in BRACKETS.items()),
        (r"(\.{2,})", r" \1 "),
        (r"([,;:!?])(?!\d)", r" \1 "),
        (rf"(?<!\S)(?!'(?:em|tis|twas)\b|{CLITIC}\b)'(?=\w)", "` "),
        (r"(?<=[^\s'])'(?![\w'])", " ' "),
        full_stop,
        clitics("n't"),
        SPLIT_PAIRS,
    )


PENN = Style(
    before=re.compile(rf"[,.;:!?']|\.{{2,}}|n't|''|-R[RS]B-|{CLITIC}"),
    after=re.compile(r"``?|-L[RS]B-"),
    redo=penn(MOSES_PERIOD),
    pairs=PAIRS,
    swap={"``": '"', "''": '"', "`": "'", **BRACKETS},
)
"""Penn Treebank tokens of today's parsers: the Children's Book Test."""

LAMBADA = replace(
    PENN,
    redo=penn(
        (r"(?<=[^\s.])(?<!\bmr)(?<!\bmrs)(?<!\bdr)(?<!\bst)\.(?=\s|$)", " . "), *rules(CAPITALS)
    ),
    finish=rules(FIRST_LETTER, SENTENCES, PRONOUN),
)
"""The released LAMBADA (not OpenAI's file): Penn Treebank tokens in lower case."""

PTB = Style(
    before=re.compile(rf"n't|'|{CLITIC}"),
    after=re.compile(r"(?:c|us|hk|nz|a)?\$|#"),
    redo=rules(
        (r"\.\Z", ""),
        CAPITALS,
        (r"(?<!\S)((?:c|us|hk|nz|a)?\$|#)(?=[\w<])", r"\1 "),
        (r"(?<=\w)'(?!\w)", " '"),
        clitics("n't"),
        SPLIT_PAIRS,
    ),
    pairs=PAIRS,
    finish=rules(FIRST_LETTER, PRONOUN, PROPER, ACRONYMS, (r"\Z", ".")),
)
"""Mikolov's PTB: lower case, no punctuation, N for numbers, <unk> for rare words."""

PTB_STYLE = replace(PTB, pairs=frozenset(), redo=PTB.redo[:-1])
"""The sample set's ptb_style: as PTB, but with "cannot" in one word."""
