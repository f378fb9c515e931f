"""One tiny text and the reason expected, for each reason; the language rule on real pages."""

from collections import Counter
from pathlib import Path

import pytest

from modules.corpus import filters, language, ngrams, repetition
from modules.corpus.document import Document
from modules.corpus.filters import Dropped, apply, drop, rewrite
from modules.corpus.recipe import (
    C4Config,
    FilterConfig,
    FineWebConfig,
    QualityConfig,
    c4,
    fineweb,
    gopher,
    ready_made,
    webtext,
)
from modules.files import read_jsonl

DATA = Path(__file__).parents[3] / "data"
PROSE = (
    "The quick brown fox jumps over the lazy dog and runs to the end of the garden. "
    "It is said that those who have seen it will be happy with what they have got. "
)
MORE = (
    "Nobody who has ever walked along this river would want to be anywhere else in the spring, "
    "when the water rises and the boats that lay on land all winter have to go out again."
)
GERMAN = "Der schnelle braune Fuchs springt über den faulen Hund und läuft ans Ende des Gartens. "


def outcome(text: str, steps, url: str = "https://example.org/a") -> str:
    """The reason a text is dropped for, or "kept"."""
    result = apply(steps, Document("0" * 16, text, url=url))
    return result.reason if isinstance(result, Dropped) else "kept"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PROSE, "kept"),
        ("the word and " * 40_000, "too_long"),
        ("the " + "Donaudampfschifffahrtsgesellschaft " * 9, "odd_word_length"),
        ("the a of b " * 9, "odd_word_length"),
        (PROSE + "# to # be # or # not # to # be", "symbol_heavy"),
        (PROSE + "and... so... that... is... it... " * 2, "symbol_heavy"),
        ("• the point\n- that is\n* made\n◦ with bullets", "bullet_list"),
        (f"the first story of the day, and {PROSE}…\n{PROSE}...\nthat was all", "cut_lines"),
        ("the table of 1 12 123 1234 12345 and so on with 999 0.5 3.14", "few_letters"),
        ("sqlite3 open close prepare step finalize reset", "no_stop_words"),
        ("I am your father, and that is that.\n" * 4, "repeated_lines"),
        (f"{PROSE}\nThe end of it.\n{PROSE * 2}\n{PROSE}\nand\nto\nbe\nhave", "repeated_lines"),
        (f"{PROSE}\n\nThe end.\n\n{PROSE}", "repeated_lines"),
        (PROSE + "buy this now " * 12, "frequent_ngram"),
        (PROSE + "one of two three to four " * 2 + MORE, "kept"),
        (f"{PROSE} {MORE}, {PROSE}", "repeated_ngrams"),
    ],
)
def test_each_quality_rule_drops_its_text(text, reason):
    assert outcome(text, gopher(QualityConfig())) == reason


def test_repeated_paragraphs_of_new_lines_are_found_alone():
    step = drop(repetition.repeated_paragraphs, max_paragraphs=0.3, max_characters=0.2)
    twice = "one line\nanother line"
    assert outcome(f"{twice}\n\nbetween\n\n{twice}", [step]) == "repeated_paragraphs"
    assert outcome(f"{twice}\n\nbetween\n\nand after", [step]) == "kept"


SENTENCES = 'This is one line.\nIs it two?\nThat makes three!\nHe said "four lines."\n'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (SENTENCES + "And the last one.", "kept"),
        (SENTENCES + "And the last one is cut...", "few_sentences"),
        (SENTENCES + "And the last one has no end", "few_sentences"),
        (SENTENCES + "Too short.", "few_sentences"),
        (SENTENCES + "Please turn on JavaScript now.", "few_sentences"),
        (SENTENCES + "Lorem Ipsum dolor sit amet.", "lorem_ipsum"),
        (SENTENCES + "if (a) { return b; } and so on.", "curly_brace"),
        (SENTENCES + "And a Darned last one.", "unwanted_words"),
    ],
)
def test_each_c4_rule_drops_its_text(text, reason):
    assert outcome(text, c4(C4Config(unwanted_words=("darned",)))) == reason


def test_c4_keeps_only_lines_of_prose():
    text = SENTENCES + "Home | About | Contact\nAnd the last one.\nRead the rest of it..."
    kept = apply(c4(C4Config()), Document("x", text))
    assert kept == Document("x", SENTENCES + "And the last one.")


LINE = "This line is a good deal longer than thirty characters"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{LINE}.\n{LINE}, it is said.", "kept"),
        ("\n".join(f"{LINE} {number}" for number in range(9)), "unpunctuated"),
        (f"{LINE}.\n{LINE}.", "line_duplicates"),
        (f"{LINE}.\nOne.\nTwo.\nThree.", "short_lines"),
    ],
)
def test_each_fineweb_rule_drops_its_text(text, reason):
    assert outcome(text, fineweb(FineWebConfig())) == reason


@pytest.mark.parametrize(
    ("words", "n", "top", "again"),
    [
        ("a b c d", 2, 0, 0),  # nothing occurs twice
        ("ab cd ab cd", 2, 10, 4),  # "ab cd" twice; the second time counts as repeated
        ("a a a a", 2, 9, 3),  # overlapping, each word once
        ("a b c a b c a b c", 3, 15, 6),
        ("ab c d ab c e d ab", 2, 8, 6),  # "ab c" comes first; "d ab" is the other frequent one
        ("a b", 3, 0, 0),
        ("", 2, 0, 0),
    ],
)
def test_ngrams_are_counted_in_characters(words, n, top, again):
    found = ngrams.plain_words(words)
    assert (repetition.most_frequent(found, n), repetition.in_repeated(found, n)) == (top, again)


def test_ngrams_of_real_pages_are_counted_as_plain_python_does():
    if not DATA.exists():
        pytest.skip("the sample data is not here (make data)")
    rows = list(read_jsonl(DATA / "web" / "main_text.jsonl.zst"))[:60]
    for row in rows:
        words, lengths = row["main_text"].split(), list(map(len, row["main_text"].split()))
        found = ngrams.plain_words(row["main_text"])
        for n in (2, 3, 5, 10):
            grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
            first, times = Counter(grams).most_common(1)[0] if grams else ((), 0)
            top = (sum(map(len, first)) + n - 1) * times if times > 1 else 0
            seen: set[tuple[str, ...]] = set()
            covered: set[int] = set()
            for i, gram in enumerate(grams):
                covered.update(range(i, i + n) if gram in seen else ())
                seen.add(gram)
            assert repetition.most_frequent(found, n) == top
            assert repetition.in_repeated(found, n) == sum(lengths[i] for i in covered)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://en.wikipedia.org/wiki/Zinc", "from_wikipedia"),
        ("http://en.m.wikipedia.org/wiki/Zinc", "from_wikipedia"),
        ("https://wikipedia.org/", "from_wikipedia"),
        ("https://DE.WIKIPEDIA.ORG./wiki/Zink", "from_wikipedia"),
        ("https://en.wikipedia.org:443/wiki/Zinc", "from_wikipedia"),
        ("https://notwikipedia.org/a", "kept"),
        ("https://example.org/wikipedia.org", "kept"),
        ("https://wikipedia.org.example.net/", "kept"),
        ("", "kept"),
    ],
)
def test_wikipedia_is_known_by_its_host(url, reason):
    assert outcome("text", [drop(filters.from_wikipedia)], url) == reason


def test_the_recipe_applies_length_then_language():
    steps = webtext(FilterConfig(min_words=20))
    assert outcome(PROSE, steps) == "kept"
    assert outcome(GERMAN * 3, steps) == "other_language"
    assert outcome(GERMAN, steps) == "too_short"
    assert outcome(" \n ", steps) == "empty"
    assert outcome(GERMAN * 3, webtext(FilterConfig(min_words=20, languages=("de",)))) == "kept"
    assert outcome(GERMAN * 3, webtext(FilterConfig(min_words=20, languages=()))) == "kept"
    wikipedia = "https://en.wikipedia.org/wiki/A"
    assert outcome(PROSE, steps, wikipedia) == "from_wikipedia"
    assert outcome(PROSE, webtext(FilterConfig(min_words=9, drop_wikipedia=False)), wikipedia) == (
        "kept"
    )


def test_quality_rules_are_part_of_the_recipe_only_when_asked_for():
    table = PROSE + "1 2 3 4 5 6 7 8 9 " * 20
    assert outcome(table, webtext(FilterConfig(min_words=20))) == "kept"
    asked = FilterConfig(min_words=20, quality=QualityConfig())
    assert outcome(table, webtext(asked)) in ("odd_word_length", "few_letters")


def test_masking_is_part_of_the_recipe_only_when_asked_for():
    text = PROSE + "Ask a.b@gmx.de about it."
    kept = apply(webtext(FilterConfig(min_words=9)), Document("x", text))
    masked = apply(webtext(FilterConfig(min_words=9, mask=("mail",))), Document("x", text))
    assert isinstance(kept, Document) and isinstance(masked, Document)
    assert kept.text == text
    assert masked.text == PROSE + "Ask |||EMAIL_ADDRESS||| about it."
    assert masked.meta["masked"] == {"mail": 1}


def test_a_ready_made_text_is_only_repaired():
    assert outcome("Kurz.", ready_made()) == "kept"
    assert outcome("\0", ready_made()) == "empty"


def test_the_detail_says_what_was_measured():
    result = apply([drop(filters.too_short, min_words=9)], Document("x", "just three words"))
    assert isinstance(result, Dropped)
    assert (result.reason, result.detail) == ("too_short", "3 words")


def test_rewriting_repairs_the_text_and_keeps_the_rest():
    document = Document("x", " a\r\nb\0\ud800c\rd ", url="u", meta={"k": 1})
    fixed = rewrite(filters.fix_unicode)(document)
    assert fixed == Document("x", "a\nb\ufffdc\nd", url="u", meta={"k": 1})
    assert filters.fix_unicode(Document("x", "\U0001f917")).text == "\U0001f917"


def test_the_language_and_its_probability_are_kept():
    tagged = filters.tag_language(Document("x", PROSE * 5, meta={"charset": "utf-8"}))
    assert tagged.lang == "en"
    assert tagged.meta["lang_probability"] > 0.9
    assert tagged.meta["charset"] == "utf-8"


def test_what_looks_like_no_language_is_not_called_foreign():
    codes = "\n".join(f"SQLITE_{a}{b}" for a in "XQZ" for b in "WVK")
    assert outcome(codes, webtext(FilterConfig(min_words=2))) == "kept"


def test_languages_of_real_pages_agree_with_the_truth():
    if not DATA.exists():
        pytest.skip("the sample data is not here (make data)")
    rows = list(read_jsonl(DATA / "web" / "main_text.jsonl.zst"))
    wrong = []
    for row in rows:
        found = language.detect_language(row["main_text"][: language.SAMPLE])
        if (found[0] if found[1] >= 0.5 else row["lang"]) != row["lang"]:
            wrong.append((row["url"], row["lang"], found))
    # "translations" are partly English, and truth goes by the address
    assert all(lang != "en" and found[0] == "en" for _, lang, found in wrong), wrong
    assert len(wrong) / len(rows) < 0.12
    assert len(rows) > 100


def test_the_quick_detector_never_overrules_the_better_one():
    if not DATA.exists():
        pytest.skip("the sample data is not here (make data)")
    for row in read_jsonl(DATA / "web" / "main_text.jsonl.zst"):
        text = row["main_text"][: language.SAMPLE]
        if language.detect_language(text) == ("en", 1.0):
            assert language._identifier().classify(text)[0] == "en"
