"""Held-out sets: one per corpus and per domain, their mean by weight, whole documents."""

import json
from pathlib import Path

import numpy as np
import pytest

from modules import tokenizer as bpe
from modules.corpus.document import Document, write_documents
from modules.corpus.shards import TokensConfig, write_tokens
from modules.corpus.token_file import read_spans, read_split
from modules.training.config import PretrainConfig
from modules.training.corpora import Corpora, HeldOut, largest_sources, named
from modules.training.mixture import Mixture
from modules.training.pretrain import pretrain

LETTERS = {"a.org": "abc", "b.org": "def", "tiny.org": "xyz", "": "uvw"}
SIZES = {"a.org": 12, "b.org": 30, "tiny.org": 2, "": 90}  # words a document


@pytest.fixture(scope="module")
def tokens(corpus, tmp_path_factory) -> Path:
    """Documents of four sources, each with letters of its own."""
    root = tmp_path_factory.mktemp("domains")
    (root / "documents").mkdir()
    (root / "tokens").mkdir()
    texts = [
        Document(
            f"{source}-{i}",
            " ".join(LETTERS[source]) * SIZES[source],
            source=source,
            meta={"split": ("train", "val", "test")[i % 3]},
        )
        for i in range(12)
        for source in LETTERS
    ]
    write_documents(root / "documents/documents-00000.jsonl.zst", texts)
    write_tokens(root / "documents", Path(corpus["tokenizer"]), root / "tokens", TokensConfig())
    return root / "tokens"


def config_of(tiny, **changes) -> PretrainConfig:
    return PretrainConfig(
        **{"model": tiny, "max_steps": 4, "batch_size": 4, "threads": 1, "accelerator": "cpu"}
        | {"precision": "32-true"}
        | changes
    )


def test_the_mean_is_by_weight_and_domains_do_not_count():
    both = HeldOut({}, {"a": 0.75, "b": 0.25})
    assert both.numbers({"a": 2.0, "b": 4.0, "a/x.org": 9.0}) == {
        "val_loss": 2.5,
        "val_loss/a": 2.0,
        "val_loss/b": 4.0,
        "val_loss/a/x.org": 9.0,
    }
    assert both.numbers({"b": 4.0}) == {"val_loss": 4.0, "val_loss/b": 4.0}  # a has no such split
    one = HeldOut({}, {"tokens": 1.0})
    assert one.numbers({"tokens": 3.1}) == {"val_loss": 3.1}
    assert one.numbers({"tokens": 3.1, "x.org": 1.0}) == {"val_loss": 3.1, "val_loss/x.org": 1.0}
    assert one.numbers({}) == {}


def test_domains_are_the_largest_sources_with_whole_documents(tokens, corpus, tiny):
    config = config_of(tiny, val_domains=2)
    sets = Corpora({"tokens": tokens}, config).held_out(50).windows
    assert list(sets) == ["tokens", "b.org", "a.org"]
    tokenizer = bpe.load(Path(corpus["tokenizer"]))
    for source in ("a.org", "b.org"):
        rows = sets[source].numpy()[:, 1:]
        text = tokenizer.decode([int(i) for i in rows[rows >= 0] if i != tokenizer.eot])
        assert set(text) == {*LETTERS[source], " "}
        spans = [s for s in read_spans(tokens, "val") if s.source == source]
        assert (rows >= 0).sum() == sum(s.length for s in spans)  # each token once
    assert set(largest_sources(read_split(tokens, "val"), 9)) == {"a.org", "b.org", "tiny.org"}


def test_a_run_says_the_loss_of_each_domain(tokens, corpus, tiny, tmp_path):
    config = config_of(tiny, val_domains=2, max_steps=25)
    pretrain(tokens, Path(corpus["tokenizer"]), tmp_path, config)
    facts = json.loads((tmp_path / "training.json").read_text())
    assert set(facts["held_out_losses"]) == {"a.org", "b.org"} and facts["epochs"]["tokens"] > 0
    row = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()][-1]
    assert {"val_loss", "val_loss/a.org", "val_loss/b.org"} <= set(row)
    assert row["val_loss/a.org"] != row["val_loss/b.org"]


def test_corpora_are_mixed_by_weight_or_size(tokens, tiny):
    paths = {"x": tokens, "y": tokens}
    even = Corpora(paths, config_of(tiny))
    assert even.weights == {"x": 0.5, "y": 0.5} and isinstance(even.rows, Mixture)
    uneven = Corpora(paths, config_of(tiny, mixture={"y": 3, "x": 1}))
    assert uneven.weights == {"x": 0.25, "y": 0.75}
    assert uneven.epochs(100)["y"] == pytest.approx(3 * uneven.epochs(100)["x"], rel=1e-3)
    single = Corpora({"tokens": tokens}, config_of(tiny)).rows
    assert (single.rows(np.arange(5)) >= 0).all()


def test_the_mixture_names_the_tokens(tokens, tiny):
    config = config_of(tiny, mixture={"web": 1, "books": 1})
    assert list(named({"web": tokens, "books": tokens}, config)) == ["books", "web"]
    with pytest.raises(ValueError, match=r"weighs \['books', 'web'\], the tokens are \['web'\]"):
        named({"web": tokens}, config)
