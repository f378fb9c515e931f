"""Cleaning on top of an older corpus: what is new joins it, night after night."""

import shutil
from itertools import combinations

import pytest

from modules.corpus.clean import clean
from modules.corpus.document import read_documents, shard_path, write_documents
from modules.corpus.shingles import jaccard, shingles
from modules.files import read_jsonl
from tests.modules.corpus.web_pages import CONFIG, digests, many


def test_new_documents_join_an_older_corpus(tmp_path):
    config = CONFIG.but(shard_documents=20)
    documents = many(150)
    write_documents(shard_path(tmp_path / "june", 0), documents[:70])
    write_documents(shard_path(tmp_path / "july", 0), documents[60:])  # ten are there already
    old, new = tmp_path / "old", tmp_path / "new"
    clean(tmp_path / "june", [], old, config)
    before = digests(old)
    counts = clean(tmp_path / "july", [], new, config, base=old)
    assert digests(old) == before
    after = digests(new)
    carried = {name for name in before if name != "sketches.json"}
    assert {name: after[name] for name in carried} == {name: before[name] for name in carried}
    assert (new / "documents-00000.jsonl.zst").samefile(old / "documents-00000.jsonl.zst")
    kept = list(read_documents(new))
    assert len({d.id for d in kept}) == len(kept) == counts["carried"] + counts["kept"]
    rows = [row for p in sorted(new.glob("dropped-*")) for row in read_jsonl(p)]
    assert {r["id"] for r in rows} | {d.id for d in kept} == {d.id for d in documents}
    older = [row for row in rows if row["detail"].endswith(" older")]
    ids = {d.id for d in read_documents(old)}
    assert {row["reason"] for row in older} == {"already_kept", "exact_duplicate", "near_duplicate"}
    assert all(row["detail"].split()[0] in ids for row in older)
    sets = [shingles(d.text, 5) for d in kept]
    assert all(jaccard(a, b) < 0.7 for a, b in combinations(sets, 2))


def test_a_night_without_news_adds_nothing(shards, tmp_path):
    clean(shards, [], tmp_path / "old", CONFIG)
    counts = clean(shards, [], tmp_path / "new", CONFIG, base=tmp_path / "old")
    assert counts["kept"] == 0 and counts["dropped.already_kept"] == counts["carried"] > 0
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [
        "documents-00000.jsonl.zst",
        "dropped-00000.jsonl.zst",
        "dropped-00001.jsonl.zst",
        "sketches-00000.npy",
        "sketches.json",
    ]


@pytest.mark.parametrize("lost", ["sketches.json", "settings", "all"])
def test_an_older_corpus_without_fitting_sketches_is_sketched_again(lost, shards, tmp_path):
    write_documents(shard_path(tmp_path / "text", 0), many(60, first=100))
    clean(shards, [], tmp_path / "old", CONFIG)
    expected = clean(tmp_path / "text", [], tmp_path / "a", CONFIG, base=tmp_path / "old")
    if lost == "settings":
        shutil.rmtree(tmp_path / "old")
        clean(shards, [], tmp_path / "old", CONFIG)
        (tmp_path / "old" / "sketches.json").write_text('{"version": 0}')
    for path in (tmp_path / "old").glob(lost if lost == "sketches.json" else "sketches*"):
        path.unlink()
    assert clean(tmp_path / "text", [], tmp_path / "b", CONFIG, base=tmp_path / "old") == expected
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_three_nights_are_the_same_as_often_as_they_are_run(tmp_path):
    documents = many(150)
    for night in range(3):
        write_documents(shard_path(tmp_path / f"text{night}", 0), documents[night::3])
    results = []
    for again in "ab":
        base = None
        for night in range(3):
            out = tmp_path / f"{again}{night}"
            clean(tmp_path / f"text{night}", [], out, CONFIG, base=base)
            base = out
        results.append(digests(out))
    assert results[0] == results[1]
    kept = [d.text for d in read_documents(out)]
    assert len({text.lower() for text in kept}) == len(kept)
