"""Duplicates against brute force, datasketch and the truth of the sample; order never matters."""

import random
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.corpus import dedup
from modules.corpus.dedup import DedupConfig, Duplicate, find_duplicates, shingles
from modules.corpus.document import Document, document_id
from modules.files import read_jsonl

DATA = Path(__file__).parents[3] / "data"
WORDS = [f"w{i}" for i in range(5000)]


def sentence(seed: int, n: int = 300) -> list[str]:
    return random.Random(seed).choices(WORDS, k=n)


def edited(words: list[str], share: float, seed: int) -> list[str]:
    """Change a share of the words, in one run (so that few n-grams are touched)."""
    n = round(len(words) * share)
    return words[: len(words) - n] + sentence(seed, n)


def document(name: str, words: list[str], **rest) -> Document:
    return Document(document_id(name), " ".join(words), url=name, **rest)


def true_jaccard(a: str, b: str, n: int = 5) -> float:
    """Plain sets of word tuples: no hashing, nothing shared with the code under test."""
    sets = []
    for text in (a, b):
        words = re.findall(r"\w+", text.lower())
        sets.append({tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def pages() -> list[Document]:
    if not DATA.exists():
        pytest.skip("the sample data is not here (make data)")
    rows = read_jsonl(DATA / "web" / "main_text.jsonl.zst")
    return [Document(document_id(r["url"]), r["main_text"], url=r["url"]) for r in rows]


# --- n-grams and their Jaccard ---


def test_hashed_shingles_give_the_jaccard_of_plain_sets():
    documents = pages()
    sets = [shingles(d.text, 5) for d in documents]
    for i, j in random.Random(0).sample(list(combinations(range(len(sets)), 2)), 500):
        expected = true_jaccard(documents[i].text, documents[j].text)
        assert dedup.jaccard(sets[i], sets[j]) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.sampled_from("abc"), max_size=30), st.lists(st.sampled_from("abc"), max_size=30))
def test_any_two_texts_have_the_jaccard_of_plain_sets(a, b):
    if a and b:
        found = dedup.jaccard(shingles(" ".join(a), 5), shingles(" ".join(b), 5))
        assert found == pytest.approx(true_jaccard(" ".join(a), " ".join(b)))


def test_order_inside_an_n_gram_counts():
    assert dedup.jaccard(shingles("a b c d e", 5), shingles("e d c b a", 5)) == 0
    assert dedup.jaccard(shingles("A, b; c. D e!", 5), shingles("a b c d e", 5)) == 1


def test_texts_without_words_are_told_apart():
    assert dedup.exact_hash("!!!") != dedup.exact_hash("???")
    assert len(shingles("", 5)) == 1


def test_hashes_are_the_same_for_ever():
    assert shingles("one two three four five", 5).tolist() == [835595122071527612]


# --- MinHash ---


def test_signatures_estimate_jaccard_as_well_as_datasketch():
    datasketch = pytest.importorskip("datasketch")
    config = DedupConfig()
    base = sentence(0, 600)
    variants = [edited(base, share, 7) for share in (0, 0.05, 0.1, 0.2, 0.4, 0.7, 1)]
    sets = [shingles(" ".join(words), 5) for words in variants]
    ours = dedup.signatures(sets, config)
    theirs = []
    for grams in sets:
        sketch = datasketch.MinHash(num_perm=128, seed=1)
        sketch.update_batch([int(g).to_bytes(8, "little") for g in grams])
        theirs.append(sketch)
    tolerance = 4 * 0.5 / np.sqrt(128)  # four standard deviations at the worst Jaccard
    for i, j in combinations(range(len(sets)), 2):
        truth = dedup.jaccard(sets[i], sets[j])
        assert abs(float((ours[i] == ours[j]).mean()) - truth) < tolerance
        assert abs(theirs[i].jaccard(theirs[j]) - truth) < tolerance


def test_signatures_do_not_depend_on_the_batch():
    sets = [shingles(" ".join(sentence(i)), 5) for i in range(20)]
    whole = dedup.signatures(sets, DedupConfig())
    parts = [dedup.signatures([s], DedupConfig()) for s in sets]
    assert np.array_equal(whole, np.concatenate(parts))
    assert not np.array_equal(whole, dedup.signatures(sets, DedupConfig(seed=7)))


@pytest.mark.parametrize("threshold", [0.5, 0.65, 0.7, 0.8, 0.95])
def test_bands_reach_the_recall_asked_for(threshold):
    config = DedupConfig(near_threshold=threshold)
    bands = config.permutations // config.rows
    assert 1 - (1 - threshold**config.rows) ** bands >= 0.999
    more = config.rows + 1
    assert 1 - (1 - threshold**more) ** (config.permutations // more) < 0.999


# --- the whole ---


def near(documents: list[Document], config: DedupConfig | None = None) -> dict[str, Duplicate]:
    return find_duplicates(lambda: iter(documents), config or DedupConfig())


def test_exact_copies_differ_in_blanks_case_and_points_only():
    texts = ["Hello, big  wide World of text", "hello big\nwide world of text!", "Another text"]
    documents = [Document(document_id(t), t) for t in texts]
    found = near(documents)
    (gone,) = found
    assert gone in (documents[0].id, documents[1].id)
    assert found[gone].kind == "exact_duplicate"
    assert found[gone].jaccard == 1


def test_a_close_copy_goes_and_a_distant_one_stays():
    base = sentence(1)
    documents = [
        document("base", base),
        document("close", edited(base, 0.1, 2)),
        document("far", edited(base, 0.5, 3)),
        document("other", sentence(4)),
    ]
    found = near(documents)
    assert len(found) == 1
    ((gone, duplicate),) = found.items()
    assert {gone, duplicate.of} == {documents[0].id, documents[1].id}
    assert duplicate.kind == "near_duplicate"
    assert duplicate.jaccard == pytest.approx(
        true_jaccard(documents[0].text, documents[1].text), abs=1e-12
    )


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"date": "2018-01-02"}, {"date": "2018-01-03"}),
        ({"date": "2018-01-02T10:00:00Z"}, {"date": "2018-01-02T10:00:01Z"}),
        ({"date": "2018-01-02"}, {}),
        ({"meta": {"split": "test"}}, {"date": "2001-01-01", "meta": {"split": "train"}}),
        ({"meta": {"split": "val"}}, {"date": "2001-01-01"}),
    ],
)
def test_who_stays(better, worse):
    base = sentence(5)
    for first, second in (("a", "b"), ("b", "a")):  # whichever id is smaller
        documents = [
            document(first, base, **better),
            document(second, [*base, "and", "a", "longer", "end"], **worse),
        ]
        assert near(documents)[documents[1].id].of == documents[0].id


def test_of_equal_dates_the_longer_text_stays_and_of_equal_texts_the_smaller_id():
    base = sentence(6)
    long, short = document("long", [*base, "more"]), document("short", base)
    assert near([short, long])[short.id].of == long.id
    twins = sorted([document("x", base), document("y", base)], key=lambda d: d.id)
    assert near(twins[::-1])[twins[1].id].of == twins[0].id


def test_a_chain_of_likenesses_does_not_join_what_differs():
    """a ~ b ~ c, but a and c share less than the threshold: c stays, although b is gone."""
    base = sentence(7, 400)
    chain = [
        document("a", base, date="2001"),
        document("b", edited(base, 0.15, 8), date="2002"),
        document("c", edited(edited(base, 0.15, 8)[::-1], 0.15, 9)[::-1], date="2003"),
    ]
    links = [true_jaccard(x.text, y.text) for x, y in combinations(chain, 2)]
    assert links[0] > 0.7 and links[2] > 0.7 and links[1] < 0.7  # ab, bc; ac
    assert set(near(chain)) == {chain[1].id}


def test_every_dropped_document_really_is_like_the_one_that_stays():
    documents = collection()
    texts = {d.id: d.text for d in documents}
    found = near(documents)
    for duplicate in found.values():
        assert duplicate.of not in found
        if duplicate.kind == "near_duplicate":
            assert duplicate.jaccard >= 0.7
    for a, b in combinations([d for d in documents if d.id not in found], 2):
        assert true_jaccard(a.text, b.text) < 0.7
    assert 20 < len(found) < len(texts)


def collection() -> list[Document]:
    """Families of texts with all degrees of likeness, and exact copies."""
    documents = []
    for family in range(12):
        base = sentence(100 + family)
        for i, share in enumerate((0, 0, 0.02, 0.1, 0.2, 0.35, 0.6)):
            words = edited(base, share, 1000 + 10 * family + i)
            documents.append(document(f"{family}/{i}", words, date=f"20{(i * 7) % 10:02}"))
    return documents


@settings(max_examples=10, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_result_does_not_depend_on_the_order(generator):
    documents = collection()
    expected = near(documents)
    generator.shuffle(documents)
    assert near(documents) == expected


def test_brute_force_finds_the_same_on_real_pages():
    documents = pages()
    config = DedupConfig(near_threshold=0.5)
    found = near(documents, config)
    order = sorted(documents, key=dedup.stay_key)
    sets = {d.id: shingles(d.text, 5) for d in documents}
    kept: list[Document] = []
    gone = set()
    for d in order:
        if any(dedup.jaccard(sets[d.id], sets[k.id]) >= 0.5 for k in kept):
            gone.add(d.id)
        else:
            kept.append(d)
    assert set(found) == gone
    assert gone  # the handbook's half-translated pages


def test_a_huge_bucket_costs_few_pairs(monkeypatch):
    monkeypatch.setattr(dedup, "BUCKET_PAIRS", 4)
    signature = np.zeros((100, 128), dtype=np.uint32)  # everything in one bucket
    pairs = dedup.candidate_pairs(signature, np.arange(100)[::-1].copy(), DedupConfig())
    assert len(pairs) == 6 + 96 * 4
    best = {99, 98, 97, 96}  # the best ranks are the last rows here
    assert set(pairs[:, 0].tolist()) <= best
    assert all(a > b for a, b in pairs.tolist())  # the better rank first
    base = sentence(11)
    documents = [document(str(i), [*base, f"end{i}"]) for i in range(50)]
    assert len(near(documents)) == 49


def test_the_truth_s_likenesses_are_ours():
    """truth.jsonl's Jaccard (somebody else's code) for pairs whose main text is at hand."""
    documents = {d.url: d.text for d in pages()}
    seen = 0
    for row in read_jsonl(DATA / "web" / "truth.jsonl.zst"):
        for url, value in row.get("near") or []:
            if row["url"] in documents and url in documents:
                a, b = (shingles(documents[u], 5) for u in (row["url"], url))
                assert dedup.jaccard(a, b) == pytest.approx(value, abs=6e-4)
                seen += 1
    assert seen >= 10


def test_nothing_and_one_document_are_fine():
    assert near([]) == {}
    assert near([document("a", ["x"])]) == {}
