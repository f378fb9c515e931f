"""Folders that would run code when loaded by others: refused, and none of it runs (R19)."""

import json
import os
import pickle
import struct
import sys

import pytest
import torch

from modules.model import bundle, checkpoint
from modules.model.gpt import GPT, GPTConfig
from modules.model.releases import import_any

torch.set_num_threads(1)

CONFIG = GPTConfig(vocab_size=31, n_positions=8, n_embd=8, n_layer=1, n_head=1)
HF = {"model_type": "gpt2", "vocab_size": 31, "n_positions": 8, "n_embd": 8}
HF |= {"n_layer": 1, "n_head": 1, "auto_map": {"AutoModelForCausalLM": "evil.Model"}}
CODE = "import pathlib\npathlib.Path('executed').touch()\n"
MLMODEL = """flavors:
  python_function: {loader_module: evil, code: code, data: data, python_version: 3.11.7}
"""


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def with_header(header: bytes, length: int | None = None) -> bytes:
    """A safetensors file whose header is these bytes, and says it has so many."""
    return struct.pack("<Q", len(header) if length is None else length) + header


def tensor(shape: list[int], offsets: list[int], dtype: str = "F32") -> bytes:
    entry = {"wte.weight": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}
    return with_header(json.dumps(entry).encode()) + bytes(8)


WEIGHTS = {
    "pickle": pickle.dumps(Evil()),
    "header of 2^63 bytes": with_header(b"{}", 2**63),
    "header of 99 MB that is not there": with_header(b"{}", 99 * 10**6),
    "nested header": with_header(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "header of no JSON": with_header(b"\xff\xfe" * 50),
    "shape beyond the file": tensor([2**40, 2**20], [0, 8]),
    "shape that overflows": tensor([2**63, 2], [0, 0]),
    "offsets beyond the file": tensor([2], [0, 2**60]),
    "offsets backwards": tensor([2], [8, 0]),
    "type that is none": tensor([2], [0, 8], "object"),
}


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A folder with code wherever somebody might run some."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "model"
    (folder / "code").mkdir(parents=True)
    torch.save({"wte.weight": Evil()}, folder / "pytorch_model.bin")
    torch.save(Evil(), folder / "model.pt")
    (folder / "python_model.pkl").write_bytes(pickle.dumps(Evil()))
    (folder / "MLmodel").write_text(MLMODEL)
    (folder / "requirements.txt").write_text("./code\n")
    for name in ("evil.py", "code/evil.py", "code/__init__.py", "modeling.py", "conftest.py"):
        (folder / name).write_text(CODE)
    yield folder
    assert not (tmp_path / "executed").exists()
    assert not (folder / "executed").exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_weights_are_refused(hostile, weights):
    (hostile / "model.safetensors").write_bytes(weights)
    (hostile / "config.json").write_text(json.dumps(HF))
    with pytest.raises(ValueError, match="safetensors"):
        import_any(hostile, hostile / "out")
    (hostile / "config.json").write_text(CONFIG.model_dump_json())
    with pytest.raises(ValueError, match="safetensors"):
        checkpoint.load(hostile)
    assert not (hostile / "out").exists()


def test_pickles_and_code_alone_are_no_model(hostile):
    with pytest.raises(FileNotFoundError, match="whose weights are these"):
        import_any(hostile, hostile / "out")
    (hostile / "config.json").write_text(json.dumps(HF))
    with pytest.raises((ValueError, FileNotFoundError), match="safetensors"):
        import_any(hostile, hostile / "out")
    with pytest.raises((ValueError, FileNotFoundError)):
        checkpoint.load(hostile)


def test_code_beside_sound_weights_is_not_touched(hostile):
    checkpoint.save(GPT(CONFIG), hostile)
    assert checkpoint.load(hostile).config == CONFIG


@pytest.mark.parametrize("data", [pickle.dumps(Evil()), b"", b"\xff" * 4096, bytes(48)])
def test_an_index_of_tensorflow_is_refused(hostile, data):
    path = hostile / "model.ckpt.index"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="index"):
        bundle.read_index(path)
