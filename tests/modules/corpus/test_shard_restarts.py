"""Token shards spread over processes, after a restart and after a crash: the same files."""

import os
import pickle
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from modules import tokenizer as bpe
from modules.corpus import encode
from modules.corpus.document import read_documents, shard_path, write_documents
from modules.corpus.shards import write_tokens
from modules.parallel import processes
from tests.modules.corpus.token_shards import GPT2, same_files


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
