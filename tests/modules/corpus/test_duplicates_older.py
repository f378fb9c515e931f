"""Duplicates against an older corpus: what is there already stays, whatever its rank."""

import tempfile
from pathlib import Path

import pytest

from modules.corpus import sketches
from modules.corpus.dedup import DedupConfig, Duplicate, find_duplicates
from modules.corpus.document import document_id
from tests.modules.corpus.alike import by_id, collection, document, edited, near, parts_of, sentence


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
