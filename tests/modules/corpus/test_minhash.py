"""MinHash, its bands and their buckets: against datasketch, in any batch, size and process."""

from itertools import combinations

import numpy as np
import pytest

from modules.corpus import lsh, sketches, tables
from modules.corpus.dedup import DedupConfig, find_duplicates
from modules.corpus.shingles import jaccard
from modules.corpus.shingles import shingles as shingle
from modules.parallel import processes
from tests.modules.corpus.alike import (
    by_id,
    collection,
    document,
    edited,
    near,
    pages,
    parts_of,
    sentence,
)


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
