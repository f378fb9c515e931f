"""What a corpus looks like: sums that add up, samples and counts that do not depend on shards."""

import random
from collections import Counter
from dataclasses import asdict, replace
from functools import partial

import pytest

from modules.corpus.clusters import jaccard_bin, survivor
from modules.corpus.contents import LookConfig, length_bins, no_contents
from modules.corpus.document import Document, document_id, shard_path
from modules.corpus.excerpt import excerpt, visible
from modules.corpus.look import Corpus, Part, look_at
from modules.corpus.tally import Sample, TopCounts, draw
from modules.files import write_jsonl
from modules.parallel import processes

WORDS = [f"w{chr(97 + i)}" for i in range(26)]


def text(seed: int, words: int = 120) -> str:
    rng = random.Random(seed)
    return "\n".join(" ".join(rng.choices(WORDS, k=12)) for _ in range(words // 12))


def page(number: int, **changes) -> Document:
    url = f"https://site{number % 3}.example.org/{number}"
    values = {"id": document_id(url), "url": url, "text": text(number), "lang": "en"}
    return Document(**values | {"meta": {"charset": "utf-8", "n_replaced": number % 2}} | changes)


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    """Twelve pages: 8 stay, 2 are too short, 2 go as duplicates of one; 1 ready-made text."""
    pages = sorted(map(page, range(12)), key=lambda d: d.id)
    kept, short, copies = pages[:8], pages[8:10], pages[10:]
    ready = Document(id=document_id("kjv:1"), text=text(99), source="kjv")
    drop = {"links": "low-karma", "pages": "http-404"}
    for step, reason in drop.items():
        rows = [{"url": f"https://gone.example.org/{i}", "reason": reason} for i in range(3)]
        write_jsonl(tmp_path / step / "dropped.jsonl.zst", rows)
    rejected = [{"file": "RS.zst", "line": 7, "offset": 99, "reason": "not-json"}]
    write_jsonl(tmp_path / "links" / "rejected.jsonl.zst", rejected)
    write_jsonl(tmp_path / "text" / "dropped-00000.jsonl.zst", [])
    for number in range(2):
        shard = [asdict(document) for document in pages[number::2]]
        write_jsonl(shard_path(tmp_path / "text", number), shard)
        stay = [asdict(d) for d in sorted([*kept, ready], key=lambda d: d.id)[number::2]]
        write_jsonl(shard_path(tmp_path / "documents", number), stay)
    gone = [(d, "too_short", "9 words") for d in short]
    gone += [(d, "near_duplicate", f"{kept[0].id} 0.900") for d in copies]
    rows = [{"id": d.id, "url": d.url, "reason": r, "detail": x} for d, r, x in gone]
    write_jsonl(tmp_path / "documents" / "dropped-00000.jsonl.zst", rows)
    counts = {
        "links": {"lines": 20, "submissions": 16, "links": 15},
        "pages": {"links": 15, "pages": 12},
        "text": {"pages": 12, "documents": 12},
        "documents": {"read": 13, "kept": 9},
        "tokens": {"train.documents": 7, "val.documents": 1, "test.documents": 1},
    }
    return Corpus(**{step: Part(tmp_path / step, n) for step, n in counts.items()})


def test_the_funnel_adds_up_and_says_where_it_does_not(corpus):
    steps = {step["name"]: step for step in look_at(corpus, LookConfig())["funnel"]}
    assert list(steps) == ["links", "addresses", "pages", "text", "documents", "tokens"]
    assert {name: step["missing"] for name, step in steps.items()} == dict.fromkeys(steps, 0)
    assert steps["links"]["rejected"] == 1 and steps["links"]["reasons"] == {"low-karma": 3}
    assert steps["addresses"]["joined"] == 1
    assert steps["documents"]["reasons"] == {"near_duplicate": 2, "too_short": 2}
    assert steps["documents"]["added"] == 1
    (corpus.pages.path / "dropped.jsonl.zst").unlink()
    lost = {step["name"]: step["missing"] for step in look_at(corpus, LookConfig())["funnel"]}
    assert lost["pages"] == 3 and sum(lost.values()) == 3


def test_contents_are_counted(corpus):
    contents = look_at(corpus, LookConfig())["contents"]
    assert (contents["documents"], contents["words"]) == (9, 9 * 120)
    assert contents["languages"] == {"en": 8, "": 1} and contents["charsets"] == {"utf-8": 8}
    domains = {row["domain"]: row["documents"] for row in contents["domains"]}
    assert domains == {"example.org": 8, "ready-made: kjv": 1}
    assert sum(row["bytes"] for row in contents["domains"]) == contents["bytes"]
    assert contents["lengths"] == [{"from": 64, "to": 127, "documents": 9}]


def test_dropped_records_are_shown_with_their_text_and_what_stays(corpus):
    look = look_at(corpus, LookConfig(dropped=1, lines=2))
    (short,) = look["dropped"]["documents"]["too_short"]
    assert short["detail"] == "9 words" and len(short["text"].split("\n")) == 3  # 2 and the dots
    (copy,) = look["dropped"]["documents"]["near_duplicate"]
    assert copy["jaccard"] == "0.900" and copy["stays"]["text"] and copy["stays"]["url"]
    assert look["dropped"]["damaged dump lines"]["not-json"][0]["line"] == "7"
    found = look["duplicates"]
    assert (found["duplicates"], found["clusters"], found["sizes"]) == (2, 1, {"3": 1})
    (group,) = found["largest"]
    assert group["size"] == 3 and group["url"] == copy["stays"]["url"]
    assert sorted(row["jaccard"] for row in group["members"]) == ["0.900", "0.900"]


@pytest.mark.parametrize(
    ("reason", "detail", "found"),
    [
        ("near_duplicate", f"{'a' * 16} 0.812", ("a" * 16, "0.812", False)),
        ("exact_duplicate", f"{'a' * 16} 1.000 older", ("a" * 16, "1.000", True)),
        ("near_duplicate", f"{'a' * 16} unverified", ("a" * 16, "unverified", False)),
        ("too_short", f"{'a' * 16} 0.812", None),
        ("near_duplicate", "something else", None),
    ],
)
def test_what_a_duplicate_is_of(reason, detail, found):
    assert survivor({"reason": reason, "detail": detail}) == found


@pytest.mark.parametrize(
    ("jaccard", "bin"),
    [("0.150", "0.15"), ("0.949", "0.90"), ("0.950", "0.95"), ("1.000", "1.00")],
)
def test_likeness_in_twentieths(jaccard, bin):
    assert jaccard_bin(jaccard) == bin


def test_what_was_carried_over_is_no_loss(corpus):
    """A corpus that grows returns the counts of its new documents, and how many there were."""
    older = Part(corpus.documents.path, {"read": 8, "kept": 4, "carried": 5})
    text = Part(corpus.text.path, {"pages": 7, "documents": 7})
    pages = Part(corpus.pages.path, {"links": 10, "pages": 7})
    grown = Corpus(**vars(corpus) | {"documents": older, "text": text, "pages": pages})
    look = look_at(grown, LookConfig())
    assert look["carried"] == 5
    assert {x["name"]: x["missing"] for x in look["funnel"]}["tokens"] == 0
    rows = [{"id": "0" * 16, "url": "", "reason": "too_short", "detail": ""}]
    write_jsonl(older.path / "dropped-00001.jsonl.zst", rows * 4)  # of the new documents
    older = replace(older, older=frozenset({"dropped-00000.jsonl.zst"}))
    look = look_at(replace(grown, documents=older), LookConfig())
    steps = {step["name"]: step for step in look["funnel"]}
    assert steps["documents"]["missing"] == 0 and steps["documents"]["dropped"] == 4
    assert look["duplicates"]["duplicates"] == 2


def test_processes_see_the_same(corpus):
    config = LookConfig(kept=3, dropped=1)
    with processes(2) as spread:
        assert look_at(corpus, config, spread=spread) == look_at(corpus, config)


def test_a_missing_directory_is_named(corpus, tmp_path):
    gone = Corpus(**vars(corpus) | {"text": Part(tmp_path / "none", {"pages": 0, "documents": 0})})
    with pytest.raises(FileNotFoundError, match="none"):
        look_at(gone, LookConfig())


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_a_sample_does_not_depend_on_the_parts(parts):
    rows = [{"id": str(i)} for i in range(100)]
    whole = Sample(10)
    for part in range(parts):
        mine = Sample(10)
        for row in rows[part::parts]:
            mine.offer(draw(row["id"], 0), lambda row=row: row)
        whole.merge(mine)
    assert whole.rows == sorted(rows, key=lambda row: draw(row["id"], 0))[:10]
    assert whole.offered == 100


def test_another_seed_is_another_sample():
    orders = {tuple(sorted(map(str, range(50)), key=partial(draw, seed=s))[:5]) for s in range(20)}
    assert len(orders) == 20


def test_top_counts_are_exact_up_to_the_limit_and_within_the_error_beyond():
    rng = random.Random(5)
    names = [f"d{int(rng.paretovariate(0.7))}" for _ in range(20_000)]
    true = Counter(names)
    exact, bounded = TopCounts(len(true)), TopCounts(200)
    for start in range(0, len(names), 1000):
        for counts in (exact, bounded):
            shard = TopCounts(counts.limit)
            for name in names[start : start + 1000]:
                shard.add(name, 1, 10)
            counts.merge(shard)
    assert exact.error == 0
    ranked = sorted(true.items(), key=lambda x: (-x[1], x[0]))[:20]
    assert [(name, n) for name, n, _ in exact.top(20)] == ranked
    assert 0 < bounded.error < 400 and len(bounded.counts) <= 200
    for name, n, _ in bounded.top(20):
        assert n <= true[name] <= n + bounded.error


def test_length_bins_have_no_gap():
    assert length_bins({}) == []
    bins = length_bins({0: 1, 4: 2})
    assert [(x["from"], x["to"], x["documents"]) for x in bins] == [
        (0, 0, 1),
        (1, 1, 0),
        (2, 3, 0),
        (4, 7, 2),
    ]


@pytest.mark.parametrize("words", [0, 1, 2, 3, 64, 127, 128])
def test_every_length_falls_into_its_bin(words):
    contents = no_contents(LookConfig())
    contents.add(Document(id="0" * 16, text="w " * words), LookConfig())
    (bin,) = length_bins(contents.lengths)
    assert bin["from"] <= words <= bin["to"]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("plain", "plain"),
        ("naïve – ¶", "naïve – ¶"),
        ("a\tb\nc", "a b c"),
        ("\x1b[31mred", "\ufffd[31mred"),
        ("abc\u202egpj", "abc\ufffdgpj"),
        ("zero\u200bwidth", "zero\ufffdwidth"),
        ("lone \ud800 half", "lone \ufffd half"),
    ],
)
def test_only_what_is_visible_is_shown(given, shown):
    assert visible(given) == shown


def test_an_excerpt_is_short():
    assert excerpt("one\n\n  two  \n" + "x" * 30, 3, 10) == "one\ntwo\n" + "x" * 9 + "…"
    assert excerpt("a\nb\nc", 2, 10) == "a\nb\n…"
    assert len(excerpt("y" * 10**6, 8, 160)) <= 160
