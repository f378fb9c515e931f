"""Duplicates in other people's ways: components, bands alone, characters as units."""

from itertools import combinations

import numpy as np
import pytest

from modules.corpus import sketches
from modules.corpus.dedup import DedupConfig
from tests.modules.corpus.alike import collection, document, edited, near, sentence, true_jaccard


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
