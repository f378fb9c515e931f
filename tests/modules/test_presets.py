"""Named values: every preset is found under its name, and replications differ where they did."""

import pytest

from modules import presets
from modules.model.base import skeleton
from modules.model.lstm import LSTM


def test_presets_are_found_by_name():
    assert [presets.get(name).name for name in presets.RUNS] == list(presets.RUNS)
    assert [presets.get_corpus(name).name for name in presets.CORPORA] == list(presets.CORPORA)
    with pytest.raises(ValueError, match="no corpus 'webtxt'; there are sample, webtext"):
        presets.get_corpus("webtxt")
    with pytest.raises(ValueError, match="no preset 'gpt3'"):
        presets.get("gpt3")


@pytest.mark.parametrize(
    ("name", "millions", "lr", "tokens_per_step"),
    [
        ("gpt1", 116.5, 2.5e-4, 64 * 512),  # GPT-1 paper, section 4.1
        ("gpt1-lstm", 55.7, 2.5e-4, 64 * 512),
        ("gpt1-lstm-equal", 116.3, 2.5e-4, 64 * 512),
        ("gpt2", 124.4, 6e-4, 2**19),  # by count; rates: GPT-3 paper, Table 2.1
        ("gpt2-medium", 354.8, 3e-4, 2**19),
        ("gpt2-large", 774.0, 2.5e-4, 2**19),
        ("gpt2-xl", 1557.6, 2e-4, 2**19),
    ],
)
def test_pretraining_is_the_papers_or_the_public_recipe(name, millions, lr, tokens_per_step):
    config = presets.get(name).pretrain
    assert config.model.n_params / 1e6 == pytest.approx(millions, abs=0.05)
    assert (config.optim.lr, config.tokens_before(1)) == (lr, tokens_per_step)
    assert config.optim.warmup_steps == 2000 and config.optim.schedule == "cosine"


def test_the_equal_lstm_has_gpt1s_parameters():
    equal, gpt = (presets.get(name).pretrain.model for name in ("gpt1-lstm-equal", "gpt1"))
    assert equal.n_params == pytest.approx(gpt.n_params, rel=0.01)
    with skeleton():
        assert sum(p.numel() for p in LSTM(equal).parameters()) == equal.n_params


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


def test_other_sizes_differ_in_size_alone():
    """Settings given with --set reach them too; gpt2's are the paper's."""
    short = presets.ZERO_SHOT.but(pretrain=presets.ZERO_SHOT.pretrain.but(max_steps=7).model_dump())
    found = presets.sizes(short)
    assert [run.pretrain.max_steps for run in found] == [7, 7]
    counts = [run.pretrain.model.n_params for run in found]
    assert counts == sorted(counts) and len({run.name for run in found}) == 2
    assert all(run.corpus == short.corpus for run in found)
    names = [run.name for run in presets.sizes(presets.GPT2)]
    assert names == ["gpt2-medium", "gpt2-large", "gpt2-xl"]
    assert presets.sizes(presets.GPT1) == ()


def test_likelihood_is_for_the_tasks_that_are_named_and_have_answers():
    run = presets.SAMPLE.finetune
    assert run.settings_of("next_passage", "auxiliary", 1).likelihood
    assert not run.settings_of("social_iqa", "auxiliary", 1).likelihood
    assert not presets.STUDY.finetune.settings_of("next_passage", "auxiliary", 1).likelihood
    with pytest.raises(ValueError, match="verse_pairs has no answers to choose from"):
        run.but(likelihood_tasks=("verse_pairs",)).chosen()
    with pytest.raises(ValueError, match="set likelihood = false"):
        run.but(likelihood_tasks=("next_passage",)).settings_of("next_passage", "features", 1)
