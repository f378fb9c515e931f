"""The split rule, what it refuses, and the split on which a finished model is judged."""

import pytest

from modules.corpus import token_file
from modules.corpus.document import Document, document_id, shard_path, write_documents
from modules.corpus.shards import write_tokens
from modules.corpus.splits import SPLITS, TokensConfig, split_of
from modules.corpus.token_file import read_split
from tests.modules.corpus.token_shards import GPT2, streams


def test_the_split_of_an_id_is_fixed_for_ever():
    config = TokensConfig(val_fraction=0.05, test_fraction=0.05)
    splits = [split_of(str(i), config) for i in range(99)]
    found = {split: splits.index(split) for split in SPLITS}
    assert found == {"train": 0, "val": 3, "test": 12}  # as first released: never change these


def test_the_fractions_are_met():
    config = TokensConfig(val_fraction=0.05, test_fraction=0.1)
    splits = [split_of(document_id(str(i)), config) for i in range(20_000)]
    assert abs(splits.count("val") / 20_000 - 0.05) < 0.006  # 4 standard deviations
    assert abs(splits.count("test") / 20_000 - 0.1) < 0.009


def test_a_larger_fraction_only_adds_to_a_split():
    small, large = TokensConfig(val_fraction=0.01), TokensConfig(val_fraction=0.2)
    for i in range(2000):
        before, after = split_of(str(i), small), split_of(str(i), large)
        assert before == after or (before, after) == ("train", "val")


# --- refusals ---


def test_an_unknown_split_is_refused_with_the_document(tmp_path):
    write_documents(shard_path(tmp_path / "in", 0), [Document("d1", "x", meta={"split": "dev"})])
    with pytest.raises(ValueError, match="document d1: unknown split 'dev'"):
        write_tokens(tmp_path / "in", GPT2, tmp_path / "out", TokensConfig())
    assert not (tmp_path / "out" / "index.json").exists()
    assert not list((tmp_path / "out").glob(".*tmp"))


def test_a_corpus_without_training_text_is_refused(tmp_path):
    write_documents(shard_path(tmp_path / "in", 0), [Document("d1", "x", meta={"split": "val"})])
    with pytest.raises(ValueError, match="no document is left for training"):
        write_tokens(tmp_path / "in", GPT2, tmp_path / "out", TokensConfig())


def test_fractions_that_leave_nothing_are_refused():
    with pytest.raises(ValueError, match="must stay below 1"):
        TokensConfig(val_fraction=0.6, test_fraction=0.4)


def test_an_unknown_split_to_read_is_named(made):
    with pytest.raises(ValueError, match="no split 'dev'"):
        read_split(made[0] / "tokens", "dev")


def test_a_finished_model_is_judged_on_test_or_else_on_val(made, tmp_path):
    root, documents, config, _ = made
    expected = streams(documents, config)["test"]
    held_out = token_file.read_held_out(root / "tokens")
    assert held_out.read(0, len(held_out)).tolist() == expected
    documents = [d for d in documents if not d.meta]
    config = config.but(test_fraction=0)
    write_documents(shard_path(tmp_path / "in", 0), documents)
    write_tokens(tmp_path / "in", GPT2, tmp_path / "out", config)
    held_out = token_file.read_held_out(tmp_path / "out")
    assert held_out.read(0, len(held_out)).tolist() == streams(documents, config)["val"]
