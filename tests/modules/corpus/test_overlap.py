"""The filter against a plain Python set, its bound, and the overlap table on a small corpus."""

import csv
import hashlib
import json
import random
import re
from itertools import pairwise

import numpy as np
import pytest

from modules import tasks
from modules.corpus import bloom, ngrams
from modules.corpus.bloom import Filter
from modules.corpus.document import Document, document_id, shard_path, write_documents
from modules.corpus.overlap import (
    OverlapConfig,
    build_filter,
    ngrams_of,
    overlap_table,
    random_hits,
    strings_of,
)
from modules.corpus.references import evaluation_texts
from modules.corpus.splits import TokensConfig, split_of
from modules.files import read_jsonl, write_jsonl
from modules.parallel import processes
from modules.task import Passage, Task

VOCABULARY = [hashlib.sha256(bytes([i])).hexdigest()[: 3 + i % 5] for i in range(60)]
HASHES = [5854919063536353176, 5749128959311969350]
ALL_TRAIN = TokensConfig(val_fraction=0, test_fraction=0)
CONFIG = OverlapConfig(random_strings=2000, tokens=ALL_TRAIN)


def plain_ngrams(text: str, n: int = 8) -> list[str]:
    """8-grams as GPT-2's paper words them: lower-cased alphanumeric words, single spaces."""
    words = re.findall(r"[^\W_]+", text.lower())
    return [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]


def sentences(seed: int, count: int) -> list[str]:
    """Texts of 0 to 40 words."""
    chosen = random.Random(seed)
    return [" ".join(chosen.choices(VOCABULARY, k=chosen.randrange(41))) for _ in range(count)]


def corpus(directory, texts, shards=1):
    """Write texts as documents, in shards."""
    documents = [Document(document_id(str(i)), text) for i, text in enumerate(texts)]
    directory.mkdir()
    for number in range(shards):
        write_documents(shard_path(directory, number), documents[number::shards])
    return directory


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop, ME_now!", ["don", "t", "stop", "me", "now"]),
        (
            "  3.14 naïve Straße ÉCOLE\u2028x\ud800y",
            ["3", "14", "naïve", "straße", "école", "x", "y"],
        ),
        ("日本語 ١٢٣ x\N{SUPERSCRIPT TWO} İ", ["日本語", "١٢٣", "x²", "i"]),
        ("?!", []),
        ("", []),
    ],
)
def test_words_are_lower_cased_and_alphanumeric(text, words):
    found = ngrams.alphanumeric_words(text)
    assert found.lengths.tolist() == list(map(len, words))
    assert found.hashes.tolist() == ngrams.alphanumeric_words(" ".join(words)).hashes.tolist()


def test_hashes_of_ngrams_are_equal_where_the_ngrams_are():
    seen: dict[str, int] = {}
    for text in [*sentences(1, 300), "A b, c d e f G h!", "a-b c d e f g h"]:
        hashes = ngrams_of([text], 8).tolist()
        assert len(hashes) == len(plain_ngrams(text))
        for gram, value in zip(plain_ngrams(text), hashes, strict=True):
            assert seen.setdefault(gram, value) == value
    assert len(set(seen.values())) == len(seen) > 3000


def test_no_ngram_reaches_from_one_text_into_the_next():
    assert len(ngrams_of(["a b c d", "e f g h"], 8)) == 0
    assert len(ngrams_of(["a b c d e f g h", "", "a b c d e f g h i"], 8)) == 3


def test_hashes_are_the_same_everywhere():
    """A filter is kept on disk, so these numbers must never change."""
    hashes = ngrams_of(["The quick brown fox jumps over the lazy dog"], 8).tolist()
    assert hashes == HASHES


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_the_filter_holds_what_a_set_holds(tmp_path, parts):
    rng = np.random.default_rng(parts)
    inside = np.unique(rng.integers(0, 2**64, 5000, dtype=np.uint64))
    bounds = [*bloom.part_bounds(parts).tolist(), 2**64]
    pieces = [
        inside[(inside >= np.uint64(low)) & (inside <= np.uint64(high - 1))]
        for low, high in pairwise(bounds)
    ]
    bloom.write_filter(
        tmp_path, ((len(p), bloom.fill(p, 1e-8)) for p in pieces), {"false_positives": 1e-8}
    )
    found = Filter.open(tmp_path)
    asked = np.concatenate([inside, rng.integers(0, 2**64, 100_000, dtype=np.uint64)])
    rng.shuffle(asked)
    known = set(inside.tolist())
    assert found.contains(asked).tolist() == [value in known for value in asked.tolist()]
    assert found.contains(asked[:0]).tolist() == []


@pytest.mark.parametrize(("distinct", "rate"), [(50, 0.01), (3000, 0.01), (20_000, 0.001)])
def test_false_positives_are_as_many_as_the_bound_says(distinct, rate):
    """Small parts too, where multiples of one step would miss it."""
    rng = np.random.default_rng(distinct)
    hits = asked = 0
    while hits < 400:
        packed = bloom.fill(rng.integers(0, 2**64, distinct, dtype=np.uint64), rate)
        facts = {"false_positives": rate, "bytes": [len(packed)]}
        hits += int(Filter(facts, packed).contains(rng.integers(0, 2**64, 50_000, np.uint64)).sum())
        asked += 50_000
    assert hits / asked < 1.2 * rate


def test_the_papers_bound_costs_38_bits_and_27_functions():
    assert bloom.hash_functions(1e-8) == 27
    assert bloom.bits_for(10**6, 1e-8) / 10**6 == pytest.approx(38.34, abs=0.01)


def test_a_filter_of_a_corpus_holds_its_ngrams_and_no_random_ones(tmp_path):
    texts = sentences(2, 400)
    found = build_filter(corpus(tmp_path / "documents", texts, 3), tmp_path, CONFIG)
    inside = {gram for text in texts for gram in plain_ngrams(text)}
    for text in [*sentences(2, 50), *sentences(3, 50)]:
        wanted = [gram in inside for gram in plain_ngrams(text)]
        assert found.contains(ngrams_of([text], 8)).tolist() == wanted
    assert sum(found.facts["distinct"]) == len(inside)
    assert random_hits(found, CONFIG) == 0
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("bound", [1e-8, 1e-3])
def test_planted_duplicates_are_all_found_and_no_more_than_the_bound(tmp_path, bound):
    """GPT-2 paper, section 4: recall first; the rate of false positives checked with 1M strings."""
    planted, asked = sentences(7, 300), 1_000_000
    config = CONFIG.but(false_positives=bound, random_strings=asked)
    documents = corpus(tmp_path / "documents", [*sentences(8, 3000), *planted], 3)
    found = build_filter(documents, tmp_path, config)
    assert found.contains(ngrams_of(planted, 8)).all(), "recall is 100 %"
    expected = bound * asked  # give or take three standard deviations of the count
    assert random_hits(found, config) <= expected + 3 * expected**0.5


def test_the_filter_does_not_depend_on_order_or_workers(tmp_path, monkeypatch):
    monkeypatch.setattr("modules.corpus.overlap.PART", 1500)
    texts = sentences(4, 300)
    made = {}
    for name, order, count in (("one", texts, 1), ("two", texts[::-1], 2)):
        documents = corpus(tmp_path / f"{name}-documents", order, 3)
        out = tmp_path / name
        with processes(count) as spread:
            found = build_filter(documents, out, CONFIG, spread=spread)
        made[name] = (out / "filter.bin").read_bytes(), (out / "filter.json").read_text()
        assert len(found.facts["bytes"]) > 1
    assert made["one"] == made["two"]


def test_a_try_that_failed_is_continued(tmp_path):
    documents = corpus(tmp_path / "documents", sentences(6, 90), 3)

    def broken(function, items):
        for number, item in enumerate(items):
            if number == 2:
                raise OSError("out of space")
            yield function(item)

    with pytest.raises(OSError, match="out of space"):
        build_filter(documents, tmp_path / "out", CONFIG, spread=broken)
    with pytest.raises(FileNotFoundError, match="no finished filter"):
        Filter.open(tmp_path / "out")
    began = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/*.tmp/*.npy")}
    assert len(began) == 2
    seen = {}

    def watching(function, items):
        for item in items:
            yield function(item)
            seen.update({x: x.stat().st_mtime_ns for x in tmp_path.glob("out/*.tmp/*.npy")})

    build_filter(documents, tmp_path / "out", CONFIG, spread=watching)
    assert began.items() <= seen.items() and len(seen) == 3  # the two were not made again
    build_filter(documents, tmp_path / "whole", CONFIG)
    made = [(tmp_path / name / "filter.bin").read_bytes() for name in ("out", "whole")]
    assert made[0] == made[1]


def test_only_training_documents_count(tmp_path):
    texts = sentences(5, 60)
    documents = corpus(tmp_path / "documents", texts)
    half = TokensConfig(val_fraction=0.3, test_fraction=0.3)
    found = build_filter(documents, tmp_path, CONFIG.but(tokens=half.model_dump()))
    for number, text in enumerate(texts):
        train = split_of(document_id(str(number)), half) == "train"
        assert found.contains(ngrams_of([text], 8)).tolist() == [train] * len(plain_ngrams(text))


def quiz(name="quiz", splits=None) -> Task:
    """A task whose rows hold texts at several depths."""
    return Task(
        name=name,
        format="perplexity",
        version=1,
        source="quiz",
        columns=("story", "turns"),
        items=lambda rows: [Passage(r["id"], r["story"], 1) for r in rows],
        metrics={},
        splits=splits or {},
    )


def test_the_table_says_what_is_in_the_corpus_and_in_the_own_train_split(tmp_path):
    a, b, c = (" ".join(f"{letter}{i}" for i in range(10)) for letter in "abc")  # 3 8-grams each
    documents = corpus(tmp_path / "documents", [a.upper(), b])
    data = tmp_path / "data"
    row = {"id": "1", "story": f"{a}.", "turns": [{"question": "who?", "answers": [b, c]}]}
    short = {"id": "2", "story": "too short", "turns": []}
    other = {"id": "3", "story": c, "turns": ["no"]}
    write_jsonl(data / "quiz" / "test.jsonl", [row, short, other])
    write_jsonl(data / "quiz" / "train.jsonl", [{"id": "0", "story": c, "turns": []}])
    write_jsonl(data / "quiz.jsonl", [other])
    trained = quiz("trained", {"train": "train", "test": "test"})
    counts = overlap_table(documents, data, [trained, quiz()], tmp_path / "out", CONFIG)
    assert (counts["random_hits"], counts["distinct_ngrams"], counts["items"]) == (0, 6, 4)
    table = json.loads((tmp_path / "out" / "overlap.json").read_text())["data_sets"]
    assert table[0] == {
        "task": "trained",
        "split": "test",
        "items": 3,
        "ngrams": 12,
        "corpus": 0.5,
        "own_train": 0.5,
        "items_without_ngrams": 1,
        "items_with_any": 1,
        "items_over_15_percent": 1,
    }
    assert (table[1]["corpus"], table[1]["own_train"]) == (0.0, None)
    with (tmp_path / "out" / "overlap.csv").open() as file:
        assert list(csv.reader(file)) == [
            ["% of test n-grams found in", "trained", "quiz"],
            ["its own train split", "50.00", ""],
            ["the corpus, train", "50.00", "0.00"],
        ]
    items = list(read_jsonl(tmp_path / "out" / "items.jsonl.zst"))
    assert items[0] == {
        "id": "1",
        "task": "trained",
        "ngrams": 9,
        "in_corpus": 6,
        "in_own_train": 3,
    }


def test_texts_of_a_row_come_from_the_columns_a_task_reads():
    row = {"id": "a", "story": "s", "turns": [{"question": "q", "answers": ["x", "y"], "n": 3}]}
    assert list(strings_of(row, quiz())) == ["s", "q", "x", "y"]


def test_the_overlap_of_the_sample_is_what_a_plain_set_and_its_own_report_say(data, tmp_path):
    """data/overlap.json was made by other code, which counts within paragraphs."""
    from modules.corpus.clean import read_extra

    train = list(read_extra(data / "lm" / "train.jsonl.zst"))
    write_documents(shard_path(tmp_path / "documents", 0), train)
    inside = {gram for document in train for gram in plain_ngrams(document.text)}
    found = build_filter(tmp_path / "documents", tmp_path, CONFIG)
    assert sum(found.facts["distinct"]) == len(inside)
    report = json.loads((data / "overlap.json").read_text())["share_of_8_grams_in_lm_train"]
    for name in ("lambada_like", "cbt_like_NE", "lm_ppl_speeches", "verse_pairs", "winograd_like"):
        task = tasks.get(name)
        asked = list(evaluation_texts([task], data))
        wanted = [gram in inside for text in asked for gram in plain_ngrams(text)]
        assert found.contains(ngrams_of(asked, 8)).tolist() == wanted, name
        key = f"ship/{task.source}" + ("/test" if task.splits else "") + ".jsonl.zst"
        assert sum(wanted) / len(wanted) == pytest.approx(report[key], abs=0.0005), name
