"""Named values: every preset is found under its name, and replications differ where they did."""

import pytest

from modules import presets


def test_presets_are_found_by_name():
    assert [presets.get(name).name for name in presets.RUNS] == list(presets.RUNS)
    assert [presets.get_corpus(name).name for name in presets.CORPORA] == list(presets.CORPORA)
    with pytest.raises(ValueError, match="no corpus 'webtxt'; there are sample, webtext"):
        presets.get_corpus("webtxt")
    with pytest.raises(ValueError, match="no preset 'gpt3'"):
        presets.get("gpt3")


@pytest.mark.parametrize(
    ("name", "karma", "languages", "min_words", "threshold"),
    [
        ("webtext", "submission", ("en",), 96, 0.7),
        ("jcpeterson", "submission", (), 0, None),
        ("openwebtext", "submission", ("en",), 96, 0.5),
        ("openwebtext2", "sum", (), 0, 0.5),
        ("megatron", "submission", ("en",), 96, 0.9),
    ],
)
def test_the_replications_are_as_they_said(name, karma, languages, min_words, threshold):
    corpus = presets.get_corpus(name)
    assert (corpus.links.min_karma, corpus.links.karma) == (3, karma)
    assert (corpus.clean.filters.languages, corpus.clean.filters.min_words) == (
        languages,
        min_words,
    )
    assert (corpus.clean.dedup and corpus.clean.dedup.near_threshold) == threshold
    assert corpus.clean.filters.drop_wikipedia
    assert corpus.links.blocklist == ("paper" if name == "webtext" else "replications")
    assert corpus.links.keep_over_18 == (name == "openwebtext2")
