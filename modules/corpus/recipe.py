"""From extracted text to the corpus: which rules apply, and in which order.

Read `webtext` first: it is the recipe. `clean` in clean.py runs it and takes out duplicates.
"""

from pathlib import Path

import numpy as np
from pydantic import Field

from modules.config import Config
from modules.corpus import filters, references, repetition, web_rules
from modules.corpus.dedup import DedupConfig
from modules.corpus.filters import Step, drop, rewrite
from modules.corpus.personal_data import PersonalData, mask_personal_data
from modules.corpus.references import NO_REFERENCES, Reference, References


class QualityConfig(Config):
    """Gopher's rules against text that is not prose (Rae et al. 2021, appendix A.1.1, Table A1)."""

    max_words: int = 100_000
    """Longer texts are dumps."""
    low_word_length: float = 3
    """Smallest mean word length, in characters."""
    high_word_length: float = 10
    """Largest mean word length, in characters."""
    max_symbol_ratio: float = 0.1
    """Largest number of hash signs, or of ellipses, a word."""
    max_bullet_lines: float = 0.9
    """Largest share of lines that start with a bullet."""
    max_cut_lines: float = 0.3
    """Largest share of lines that end in an ellipsis."""
    min_letter_words: float = 0.8
    """Smallest share of words that hold a letter."""
    min_stop_words: int = 2
    """Smallest number of different stop words (of the, be, to, of, and, that, have, with)."""
    max_repeated_lines: float = 0.3
    """Largest share of lines that occurred before."""
    max_repeated_line_characters: float = 0.2
    """Largest share of characters in such lines."""
    max_repeated_paragraphs: float = 0.3
    """Largest share of paragraphs that occurred before."""
    max_repeated_paragraph_characters: float = 0.2
    """Largest share of characters in such paragraphs."""
    max_in_frequent_ngram: dict[int, float] = {2: 0.20, 3: 0.18, 4: 0.16}  # noqa: RUF012 - copied
    """Words in an n-gram -> largest share of characters in the most frequent one."""
    max_in_repeated_ngrams: dict[int, float] = {  # noqa: RUF012 - pydantic copies it
        5: 0.15,
        6: 0.14,
        7: 0.13,
        8: 0.12,
        9: 0.11,
        10: 0.10,
    }
    """Words in an n-gram -> largest share of characters in n-grams that occurred before."""


class C4Config(Config):
    """C4's rules on lines and pages (Raffel et al. 2020, section 2.2)."""

    terminal_punctuation: bool = True
    """Keep only lines that end in a full stop, exclamation or question mark, or end quote."""
    min_line_words: int = 3
    """Shorter lines go; so do lines that name Javascript."""
    min_sentences: int = 5
    """Pages with fewer sentences left go."""
    drop_curly_braces: bool = True
    """Drop pages with a curly brace: code, mostly."""
    unwanted_words: tuple[str, ...] = ()
    """Drop pages with one of these words; C4's own list is not shipped."""


class FineWebConfig(Config):
    """FineWeb's three rules beside Gopher's and C4's (Penedo et al. 2024, custom filters)."""

    min_punctuated_lines: float = 0.12
    """Texts with no more than this share of lines ended by punctuation go."""
    max_duplicate_characters: float = 0.1
    """Texts with at least this share of characters in repeated lines go."""
    max_short_lines: float = 0.67
    """Texts with at least this share of lines under 30 characters go."""


class FilterConfig(Config):
    """Which pages are dropped one by one, and what is changed in the others."""

    languages: tuple[str, ...] = ("en",)  # GPT-2 paper, section 3.7
    """ISO 639-1 codes to keep; none keeps every language."""

    min_language_probability: float = Field(default=0.5, ge=0, le=1)
    """How sure the detector must be that a page is in another language to drop it."""

    min_words: int = Field(default=96, ge=0)
    """Shorter pages go; the replications of WebText drop under 128 tokens, about 96 words."""

    drop_wikipedia: bool = True  # GPT-2 paper, section 2.1
    """Drop pages of wikipedia.org, a common source of the tasks to be tested on."""

    max_in_wikipedia: float | None = Field(default=None, ge=0, le=1)
    """Largest share of a page's 8-grams that reference texts of Wikipedia may hold (copies
    elsewhere); none does not look. The paper went by hosts only."""

    max_in_evaluation: float | None = Field(default=None, ge=0, le=1)
    """Largest share of a page's 8-grams that evaluation sets may hold; 1 only notes the share in
    each document's meta, none does not look. The paper measured (section 4), it removed nothing."""

    quality: QualityConfig | None = None
    """Gopher's quality rules; off by default, since no replication of WebText has them."""

    c4: C4Config | None = None
    """C4's rules; off by default."""

    fineweb: FineWebConfig | None = None
    """FineWeb's extra rules; off by default."""

    mask: tuple[PersonalData, ...] = ()
    """Personal data to replace by placeholders: mail, card, ip, phone."""


class CleanConfig(Config):
    """The way from extracted pages to the corpus: filters page by page, then duplicates."""

    filters: FilterConfig = FilterConfig()
    """Which pages are dropped one by one."""

    dedup: DedupConfig | None = DedupConfig()
    """When two documents are the same; none keeps duplicates."""

    shard_documents: int = Field(default=10_000, ge=1)
    """Documents in one file of the result."""


def webtext(config: FilterConfig, known: References = NO_REFERENCES) -> list[Step]:
    """Return the steps that a web page goes through, in order.

    Raises:
        ValueError: a rule needs a reference that is not given.
    """
    steps: list[Step] = [rewrite(filters.fix_unicode), drop(filters.empty)]
    if config.drop_wikipedia:
        steps += [drop(filters.from_wikipedia)]
    steps += [drop(filters.too_short, min_words=config.min_words), rewrite(filters.tag_language)]
    if config.languages:
        steps += [
            drop(
                filters.other_language,
                languages=config.languages,
                min_probability=config.min_language_probability,
            )
        ]
    steps += gopher(config.quality) if config.quality else []
    steps += c4(config.c4) if config.c4 else []
    steps += fineweb(config.fineweb) if config.fineweb else []
    steps += excluded(config, known)
    return [*steps, rewrite(mask_personal_data, kinds=config.mask)] if config.mask else steps


def gopher(config: QualityConfig) -> list[Step]:
    """Return Gopher's rules as steps."""
    return [
        drop(filters.too_long, max_words=config.max_words),
        drop(filters.odd_word_length, low=config.low_word_length, high=config.high_word_length),
        drop(filters.symbol_heavy, max_ratio=config.max_symbol_ratio),
        drop(filters.bullet_list, max_fraction=config.max_bullet_lines),
        drop(filters.cut_lines, max_fraction=config.max_cut_lines),
        drop(filters.few_letters, min_fraction=config.min_letter_words),
        drop(filters.no_stop_words, min_count=config.min_stop_words),
        drop(
            repetition.repeated_lines,
            max_lines=config.max_repeated_lines,
            max_characters=config.max_repeated_line_characters,
        ),
        drop(
            repetition.repeated_paragraphs,
            max_paragraphs=config.max_repeated_paragraphs,
            max_characters=config.max_repeated_paragraph_characters,
        ),
        drop(repetition.frequent_ngram, max_characters=config.max_in_frequent_ngram),
        drop(repetition.repeated_ngrams, max_characters=config.max_in_repeated_ngrams),
    ]


def c4(config: C4Config) -> list[Step]:
    """Return C4's rules as steps."""
    steps: list[Step] = [
        drop(web_rules.lorem_ipsum),
        *([drop(web_rules.curly_brace)] if config.drop_curly_braces else []),
        rewrite(
            web_rules.keep_prose_lines,
            min_words=config.min_line_words,
            terminal=config.terminal_punctuation,
        ),
        drop(web_rules.few_sentences, min_sentences=config.min_sentences),
    ]
    words = frozenset(map(str.lower, config.unwanted_words))
    return [*steps, drop(web_rules.unwanted_words, words=words)] if words else steps


def fineweb(config: FineWebConfig) -> list[Step]:
    """Return FineWeb's own rules as steps."""
    return [
        drop(web_rules.unpunctuated, max_fraction=config.min_punctuated_lines),
        drop(web_rules.line_duplicates, min_fraction=config.max_duplicate_characters),
        drop(web_rules.short_lines, min_fraction=config.max_short_lines),
    ]


def excluded(config: FilterConfig, known: References) -> list[Step]:
    """Return the steps against text that references hold."""
    steps: list[Step] = []
    if config.max_in_wikipedia is not None:
        steps += [
            _tag("wikipedia", known.wikipedia),
            drop(references.wikipedia_copy, max_share=config.max_in_wikipedia),
        ]
    if config.max_in_evaluation is not None:
        steps += [
            _tag("evaluation", known.evaluation),
            drop(references.in_evaluation_set, max_share=config.max_in_evaluation),
        ]
    return steps


def ready_made() -> list[Step]:
    """Return the steps of a text set that somebody has already chosen: repairs only."""
    return [rewrite(filters.fix_unicode), drop(filters.empty)]


def _tag(reference: Reference, path: Path | None) -> Step:
    if path is None:
        raise ValueError(f"max_in_{reference} is set, but there is no reference to compare with")
    grams = np.load(path, mmap_mode="r")
    return rewrite(references.tag_overlap, reference=reference, grams=grams)
