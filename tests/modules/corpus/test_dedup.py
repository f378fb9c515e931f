"""Duplicates against brute force, datasketch and the truth of the sample; order never matters."""

import random
import re
import tempfile
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.corpus import lsh, sketches, tables
from modules.corpus.dedup import DedupConfig, Duplicate, find_duplicates
from modules.corpus.document import Document, document_id, shard_path, write_documents
from modules.corpus.lsh import Part
from modules.corpus.shingles import jaccard
from modules.corpus.shingles import shingles as shingle
from modules.corpus.sketches import sketch_shard, sketches_path
from modules.files import read_jsonl
from modules.parallel import processes

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


# --- MinHash ---


def test_signatures_estimate_jaccard_as_well_as_datasketch():
    datasketch = pytest.importorskip("datasketch")
    config = DedupConfig()
    base = sentence(0, 600)
    variants = [edited(base, share, 7) for share in (0, 0.05, 0.1, 0.2, 0.4, 0.7, 1)]
    sets = [shingle(" ".join(words), 5) for words in variants]
    ours = sketches.signatures(sets, config)
    theirs = []
    for grams in sets:
        sketch = datasketch.MinHash(num_perm=128, seed=1)
        sketch.update_batch([int(g).to_bytes(8, "little") for g in grams])
        theirs.append(sketch)
    tolerance = 4 * 0.5 / np.sqrt(128)  # four standard deviations at the worst Jaccard
    for i, j in combinations(range(len(sets)), 2):
        truth = jaccard(sets[i], sets[j])
        assert abs(float((ours[i] == ours[j]).mean()) - truth) < tolerance
        assert abs(theirs[i].jaccard(theirs[j]) - truth) < tolerance


def test_signatures_do_not_depend_on_the_batch():
    sets = [shingle(" ".join(sentence(i)), 5) for i in range(20)]
    whole = sketches.signatures(sets, DedupConfig())
    parts = [sketches.signatures([s], DedupConfig()) for s in sets]
    assert np.array_equal(whole, np.concatenate(parts))
    assert not np.array_equal(whole, sketches.signatures(sets, DedupConfig(seed=7)))


@pytest.mark.parametrize("threshold", [0.5, 0.65, 0.7, 0.8, 0.95])
def test_bands_reach_the_recall_asked_for(threshold):
    config = DedupConfig(near_threshold=threshold)
    bands = config.permutations // config.rows
    assert 1 - (1 - threshold**config.rows) ** bands >= 0.999
    more = config.rows + 1
    assert 1 - (1 - threshold**more) ** (config.permutations // more) < 0.999


# --- the whole ---


def parts_of(
    documents: list[Document],
    directory: Path,
    config: DedupConfig,
    size: int = 7,
    old: bool = False,
) -> list[Part]:
    """Write documents and their sketches into files of a few each."""
    parts = []
    for number, start in enumerate(range(0, len(documents), size)):
        path = shard_path(directory / ("old" if old else "new"), number)
        write_documents(path, documents[start : start + size])
        sketch_shard((path, sketches_path(path), config))
        parts.append(Part(path, sketches_path(path), old))
    return parts


def by_id(found: Iterable[tuple[int, Duplicate]]) -> dict[str, Duplicate]:
    rows = list(found)
    assert [number for number, _ in rows] == sorted(number for number, _ in rows)
    return {f"{number:016x}": duplicate for number, duplicate in rows}


def near(
    documents: list[Document],
    config: DedupConfig | None = None,
    old: Iterable[Document] = (),
    **rest,
) -> dict[str, Duplicate]:
    config = config or DedupConfig()
    with tempfile.TemporaryDirectory() as name:
        parts = parts_of(list(old), Path(name), config, old=True)
        parts += parts_of(documents, Path(name), config)
        return by_id(find_duplicates(parts, config, Path(name) / "work", **rest))


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


def test_a_huge_bucket_costs_few_pairs(monkeypatch):
    monkeypatch.setattr(lsh, "BUCKET_PAIRS", 4)
    ranked, first = np.arange(100, dtype="<u4"), np.zeros(100, dtype=np.int64)  # one group
    pairs = np.concatenate(list(lsh.bucket_pairs(ranked, first)))
    better, lesser = pairs >> np.uint64(32), pairs & lsh.LOW
    assert len(set(pairs.tolist())) == len(pairs) == 6 + 96 * 4
    assert set(better.tolist()) == {0, 1, 2, 3}
    assert (better < lesser).all()
    base = sentence(11)
    documents = [document(str(i), [*base, f"end{i}"]) for i in range(50)]
    assert len(near(documents)) == 49


def test_groups_of_any_size_give_each_pair_once():
    generator = np.random.default_rng(0)
    rows = np.zeros(2000, dtype=[("key", "<u8"), ("rank", "<u4")])
    rows["key"] = generator.zipf(1.5, 2000) % 500
    rows["rank"] = generator.permutation(2000)
    found = [p for pairs in lsh.bucket_pairs(*lsh._grouped(rows)) for p in pairs.tolist()]
    expected = set()
    for key in set(rows["key"].tolist()):
        members = sorted(rows["rank"][rows["key"] == key].tolist())
        for i, better in enumerate(members[: lsh.BUCKET_PAIRS]):
            expected |= {(better << 32) + lesser for lesser in members[i + 1 :]}
    assert sorted(found) == sorted(expected)


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


# --- on disk, in pieces, in processes ---


def test_tiny_buckets_and_other_processes_change_nothing(monkeypatch):
    documents = collection()
    expected = near(documents)
    monkeypatch.setattr(tables, "BUCKET_BYTES", 100)  # many files a table instead of one
    monkeypatch.setattr(lsh, "MAX_BUCKETS", 40)  # so that not all bands are compared at once
    monkeypatch.setattr(tables, "CHUNK", 3)
    assert near(documents) == expected
    with processes(2) as spread:
        assert near(documents, spread=spread) == expected


def test_what_a_killed_try_left_is_no_hindrance(tmp_path):
    documents, config = collection(), DedupConfig()
    parts = parts_of(documents, tmp_path, config)
    work = tmp_path / "work"
    (work / "alike").mkdir(parents=True)
    (work / "alike" / "000.bin").write_bytes(b"half a row")
    (work / "pairs-3.bin").write_bytes(b"1234567")
    assert by_id(find_duplicates(parts, config, work)) == near(documents)
    assert not work.exists()


@pytest.mark.parametrize("count", [1, 3, 50])
def test_tables_give_all_rows_back_in_order(count, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BUCKET_BYTES", 8 * -(-1000 // count))
    numbers = np.random.default_rng(1).integers(0, 2**62, 1000).astype("<u8")
    with tables.Buckets(tmp_path / "t", "<u8", 1000, 2**62) as buckets:
        for piece in np.split(numbers, 4):
            buckets.add(piece, piece)
    read = [np.sort(rows) for rows in buckets]
    assert len(read) == count
    assert np.array_equal(np.concatenate(read), np.sort(numbers))


# --- against an older corpus ---


def test_old_documents_stay_whatever_their_rank():
    base = sentence(20)
    old = [document("old", edited(base, 0.1, 21), date="2020")]
    new = [
        document("close", base, date="2001", meta={"split": "test"}),
        document("copy", edited(base, 0.1, 21), date="2001"),
        document("other", sentence(22)),
    ]
    found = near(new, old=old)
    assert set(found) == {new[0].id, new[1].id}
    assert {d.of for d in found.values()} == {old[0].id}
    assert all(d.older for d in found.values())
    assert found[new[1].id].kind == "exact_duplicate"
    assert found[new[0].id].kind == "near_duplicate"


@pytest.mark.parametrize("grouping", ["star", "components"])
def test_old_documents_are_not_compared_with_each_other(grouping):
    base = sentence(23)
    old = [document(f"old{i}", edited(base, 0.05, i)) for i in range(5)] + [document("t", base)] * 1
    found = near([document("new", base)], DedupConfig(grouping=grouping), old=old)
    assert set(found) == {document_id("new")}


def test_an_id_that_is_there_already_goes_and_takes_nothing_with_it():
    """Its old text may be another: what equals its new one only is no duplicate."""
    old = [document("page", sentence(24))]
    new = [document("page", sentence(25), date="1"), document("copy", sentence(25), date="2")]
    for config in (DedupConfig(), None):
        with tempfile.TemporaryDirectory() as name:
            parts = parts_of(old, Path(name), config, old=True) + parts_of(new, Path(name), config)
            found = by_id(find_duplicates(parts, config, Path(name) / "work"))
        expected = Duplicate(old[0].id, "already_kept", 1.0, older=True)
        assert found == {new[0].id: expected}


def test_new_on_old_drops_what_a_run_over_everything_would_if_old_is_better():
    documents = collection()
    ranked = sorted(documents, key=sketches.stay_key)
    everything = near(documents)
    old = [d for d in ranked[:6] if d.id not in everything]
    new = ranked[6:]
    found = near(new, old=old)
    assert set(found) == {d.id for d in new} & set(everything)
    assert any(d.older for d in found.values()) and not all(d.older for d in found.values())


# --- other people's ways ---


def test_components_follow_chains():
    base = sentence(7, 400)
    chain = [
        document("a", base, date="2001"),
        document("b", edited(base, 0.15, 8), date="2002"),
        document("c", edited(edited(base, 0.15, 8)[::-1], 0.15, 9)[::-1], date="2003"),
    ]
    found = near(chain, DedupConfig(grouping="components"))
    assert set(found) == {chain[1].id, chain[2].id}
    assert {d.of for d in found.values()} == {chain[0].id}
    ac = true_jaccard(chain[0].text, chain[2].text)
    assert found[chain[2].id].jaccard == pytest.approx(ac, abs=1e-12)


def test_components_are_those_of_the_graph_of_likenesses():
    documents = collection()
    config = DedupConfig(grouping="components", near_threshold=0.5)
    group = {d.id: {d.id} for d in documents}
    for a, b in combinations(documents, 2):
        if true_jaccard(a.text, b.text) >= 0.5:
            joined = group[a.id] | group[b.id]
            for member in joined:
                group[member] = joined
    ranked = sorted(documents, key=sketches.stay_key)
    best = {
        id(members): next(d.id for d in ranked if d.id in members) for members in group.values()
    }
    found = near(documents, config)
    assert set(found) == set(group) - set(best.values())
    assert all(best[id(group[gone])] == duplicate.of for gone, duplicate in found.items())


def test_without_verification_the_bands_decide():
    """OpenWebText2's settings but for the bands, which datasketch chooses from the threshold."""
    datasketch = pytest.importorskip("datasketch")
    index = datasketch.MinHashLSH(threshold=0.5, num_perm=10)
    config = DedupConfig(near_threshold=0.5, permutations=10, bands=index.b, verify=False)
    assert (config.rows, config.dtype["bands"].shape) == (index.r, (index.b,))
    base = sentence(30)
    found = near(
        [document("a", base), document("b", [*base, "x"]), document("c", sentence(3))], config
    )
    (duplicate,) = found.values()
    assert duplicate.kind == "near_duplicate" and np.isnan(duplicate.jaccard)


def test_characters_can_be_the_units():
    """Megatron-LM's: 5 characters, 100 seeds, 10 bands."""
    config = DedupConfig(ngram_unit="character", permutations=100, bands=10, near_threshold=0.9)
    base = sentence(31)
    documents = [
        document("a", base, date="1"),
        document("b", [*base[:-3], "x", "y", "z"], date="2"),
    ]
    texts = [{d.text[i : i + 5] for i in range(len(d.text) - 4)} for d in documents]
    duplicate = near(documents, config)[documents[1].id]
    assert duplicate.jaccard == pytest.approx(len(texts[0] & texts[1]) / len(texts[0] | texts[1]))


def test_more_bands_than_permutations_are_refused():
    with pytest.raises(ValueError, match="20 bands need as many permutations"):
        DedupConfig(permutations=10, bands=20)


def test_datasketch_finds_the_same_pairs_of_the_sample():
    """Each pair at the threshold, by brute force; the recall of both indexes is above 99 %."""
    datasketch = pytest.importorskip("datasketch")
    documents = pages() + collection()
    sets = [shingle(d.text, 5) for d in documents]
    true = {
        (i, j) for i, j in combinations(range(len(sets)), 2) if jaccard(sets[i], sets[j]) >= 0.5
    }
    config = DedupConfig(near_threshold=0.5)
    index = datasketch.MinHashLSH(
        num_perm=128, params=(config.permutations // config.rows, config.rows)
    )
    minhashes = [datasketch.MinHash(num_perm=128) for _ in sets]
    for number, (minhash, grams) in enumerate(zip(minhashes, sets, strict=True)):
        minhash.update_batch([int(g).to_bytes(8, "little") for g in grams])
        index.insert(number, minhash)
    theirs = {(i, j) for i, m in enumerate(minhashes) for j in index.query(m) if i < j}
    bands = sketches.band_hashes(sketches.signatures(sets, config), config)
    agree = (bands[:, None, :] == bands[None, :, :]).any(axis=2)
    ours = set(zip(*(a.tolist() for a in np.nonzero(np.triu(agree, 1))), strict=True))
    assert len(true) >= 100
    assert len(true & ours) >= 0.99 * len(true) and len(true & theirs) >= 0.99 * len(true)
