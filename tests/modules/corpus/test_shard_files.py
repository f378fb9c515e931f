"""Files of token shards: the stream against a plain concatenation, damage found by name."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules import tokenizer as bpe
from modules.corpus import encode, token_file
from modules.corpus.shards import write_tokens
from modules.corpus.splits import SPLITS
from modules.corpus.token_file import read_split
from tests.modules.corpus.token_shards import GPT2, streams


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
    sources = {d.id: d.source for d in documents}
    seen = []
    for split in SPLITS:
        tokens = read_split(root / "tokens", split)
        for name, start, length, source in token_file.read_spans(root / "tokens", split):
            assert source == sources[name]
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


# --- refusals ---


def test_an_id_beyond_the_vocabulary_is_refused_not_wrapped():
    with pytest.raises(ValueError, match="document d7: a token id is outside"):
        encode.check_ids(np.array([1, 70000], dtype=np.uint32), 50257, "d7")
    assert encode.token_dtype(65536) == np.uint16
    assert encode.token_dtype(65537) == np.uint32


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
