"""From extracted text to the corpus: which rules apply, and in which order.

Read `webtext` first: it is the recipe. `clean` in clean.py runs it and takes out duplicates.
"""

from pydantic import Field

from modules.config import Config
from modules.corpus import filters
from modules.corpus.dedup import DedupConfig
from modules.corpus.filters import Step, drop, rewrite


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


class FilterConfig(Config):
    """Which pages are dropped one by one."""

    languages: tuple[str, ...] = ("en",)  # GPT-2 paper, section 3.7
    """ISO 639-1 codes to keep; none keeps every language."""

    min_language_probability: float = Field(default=0.5, ge=0, le=1)
    """How sure the detector must be that a page is in another language to drop it."""

    min_words: int = Field(default=96, ge=0)
    """Shorter pages go; the replications of WebText drop under 128 tokens, about 96 words."""

    drop_wikipedia: bool = True  # GPT-2 paper, section 2.1
    """Drop pages of wikipedia.org, a common source of the tasks to be tested on."""

    quality: QualityConfig | None = None
    """Gopher's quality rules; off by default, since no replication of WebText has them."""


class CleanConfig(Config):
    """The way from extracted pages to the corpus: filters page by page, then duplicates."""

    filters: FilterConfig = FilterConfig()
    """Which pages are dropped one by one."""

    dedup: DedupConfig | None = DedupConfig()
    """When two documents are the same; none keeps duplicates."""

    shard_documents: int = Field(default=10_000, ge=1)
    """Documents in one file of the result."""


def webtext(config: FilterConfig) -> list[Step]:
    """Return the steps that a web page goes through, in order."""
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
    return steps + (quality(config.quality) if config.quality else [])


def quality(config: QualityConfig) -> list[Step]:
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
            filters.repeated_lines,
            max_lines=config.max_repeated_lines,
            max_characters=config.max_repeated_line_characters,
        ),
        drop(
            filters.repeated_paragraphs,
            max_paragraphs=config.max_repeated_paragraphs,
            max_characters=config.max_repeated_paragraph_characters,
        ),
    ]


def ready_made() -> list[Step]:
    """Return the steps of a text set that somebody has already chosen: repairs only."""
    return [rewrite(filters.fix_unicode), drop(filters.empty)]
