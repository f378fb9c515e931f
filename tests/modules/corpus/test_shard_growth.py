"""Token shards that grow behind their old files, and bases that are refused."""

import shutil
from itertools import accumulate, pairwise

import pytest

from modules import tokenizer as bpe
from modules.corpus import token_file
from modules.corpus.document import shard_path, write_documents
from modules.corpus.shards import write_tokens
from modules.corpus.splits import SPLITS, TokensConfig
from modules.corpus.token_file import read_split
from modules.files import sha256
from tests.modules.corpus.token_shards import GPT2, make_documents, same_files, streams


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A corpus of one, two and four document shards, each one's tokens made on the last one's."""
    root = tmp_path_factory.mktemp("grown")
    config = TokensConfig(val_fraction=0.2, test_fraction=0.1, tokens_per_shard=100)
    documents = make_documents(root / "all", 120)
    for generation, n_shards in enumerate((1, 2, 4)):
        directory = root / f"documents{generation}"
        for number in range(n_shards):
            part = documents[number * 30 : number * 30 + 30]
            write_documents(shard_path(directory, number), part)
        base = root / f"tokens{generation - 1}" if generation else None
        write_tokens(directory, GPT2, root / f"tokens{generation}", config, base=base)
    return root, documents, config


def test_a_corpus_grows_behind_its_old_files(grown):
    root, documents, config = grown
    for generation, n_shards in enumerate((1, 2, 4)):
        tokens = root / f"tokens{generation}"
        for split, ids in streams(documents[: 30 * n_shards], config).items():
            there = read_split(tokens, split, verify=True)
            assert there.read(0, len(there)).tolist() == ids
            spans = list(token_file.read_spans(tokens, split))
            assert [s.start for s in spans] == [0, *accumulate(s.length for s in spans[:-1])]
            assert sum(s.length for s in spans) == len(ids)
        assert not (tokens / "work").exists()
    for old, new in pairwise(root / f"tokens{generation}" for generation in range(3)):
        for path in old.iterdir():
            if path.name != "index.json":
                assert (new / path.name).samefile(path)
                assert sha256(new / path.name) == sha256(path)
        index = token_file.read_index(new)
        assert index["document_shards"][0] == token_file.read_index(old)["document_shards"][0]


def test_a_grown_corpus_holds_what_one_made_at_once_holds(grown):
    root, _, config = grown
    counts = write_tokens(root / "documents2", GPT2, root / "once", config)
    for split in SPLITS:
        once, grown_one = (read_split(root / name, split) for name in ("once", "tokens2"))
        assert once.read(0, len(once)).tolist() == grown_one.read(0, len(once)).tolist()
        spans = [list(token_file.read_spans(root / n, split)) for n in ("once", "tokens2")]
        assert spans[0] == spans[1]
    again = write_tokens(
        root / "documents2", GPT2, root / "again", config, base=root / "tokens2"
    )  # nothing is new
    assert again == counts
    assert same_files(root / "again", root / "tokens2")


def test_where_links_cannot_be_made_files_are_copied(grown, monkeypatch):
    root, _, config = grown
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError(18, "other device")))
    write_tokens(root / "documents2", GPT2, root / "copied", config, base=root / "tokens1")
    assert same_files(root / "copied", root / "tokens2")
    assert not (root / "copied" / "train-00000.bin").samefile(root / "tokens1" / "train-00000.bin")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("fractions", r"tokens1: fractions is .*'val': 0.2.*, here it is .*'val': 0.3"),
        ("tokenizer", r"tokens1: tokenizer_sha256 is"),
        ("missing", r"made of documents-00000\.jsonl\.zst .* is missing"),
        ("other", r"made of documents-00001\.jsonl\.zst .* has sha256"),
        ("cut", r"train-00000\.bin: 198 bytes"),
        ("unfinished", r"index\.json: missing"),
    ],
)
def test_a_base_of_something_else_is_refused(grown, tmp_path, change, message):
    root, documents, config = grown
    source, base, tokenizer = tmp_path / "documents2", tmp_path / "tokens1", GPT2
    for path in (source, base):
        shutil.copytree(root / path.name, path)
    if change == "fractions":
        config = config.but(val_fraction=0.3)
    elif change == "tokenizer":
        bpe.train(["aa bb aa bb"], tmp_path / "bpe", bpe.TokenizerConfig(vocab_size=260))
        tokenizer = tmp_path / "bpe"
    elif change == "missing":
        shard_path(source, 0).unlink()
    elif change == "other":
        write_documents(shard_path(source, 1), documents[31:60])
    elif change == "cut":
        (base / "train-00000.bin").write_bytes((base / "train-00000.bin").read_bytes()[:-2])
    else:
        (base / "index.json").unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        write_tokens(source, tokenizer, tmp_path / "out", config, base=base)
    assert not (tmp_path / "out" / "index.json").exists()
