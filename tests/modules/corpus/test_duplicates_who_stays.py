"""Which of alike documents stay: against brute force and the sample; order never matters."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.corpus import sketches
from modules.corpus.dedup import DedupConfig
from modules.corpus.document import Document, document_id
from modules.corpus.shingles import jaccard
from modules.corpus.shingles import shingles as shingle
from modules.files import read_jsonl
from tests.modules.corpus.alike import (
    DATA,
    collection,
    document,
    edited,
    near,
    pages,
    sentence,
    true_jaccard,
)


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


@settings(max_examples=3, deadline=None)
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
    order = sorted(documents, key=sketches.stay_key)
    sets = {d.id: shingle(d.text, 5) for d in documents}
    kept: list[Document] = []
    gone = set()
    for d in order:
        if any(jaccard(sets[d.id], sets[k.id]) >= 0.5 for k in kept):
            gone.add(d.id)
        else:
            kept.append(d)
    assert set(found) == gone
    assert gone  # the handbook's half-translated pages


def test_the_truth_s_likenesses_are_ours():
    """truth.jsonl's Jaccard (somebody else's code) for pairs whose main text is at hand."""
    documents = {d.url: d.text for d in pages()}
    seen = 0
    for row in read_jsonl(DATA / "web" / "truth.jsonl.zst"):
        for url, value in row.get("near") or []:
            if row["url"] in documents and url in documents:
                a, b = (shingle(documents[u], 5) for u in (row["url"], url))
                assert jaccard(a, b) == pytest.approx(value, abs=6e-4)
                seen += 1
    assert seen >= 10


def test_nothing_and_one_document_are_fine():
    assert near([]) == {}
    assert near([document("a", ["x"])]) == {}
