"""TensorFlow's own file is read to the bit; whatever is damaged is refused."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch

from modules.model import bundle, checkpoint
from modules.model.releases import import_any, import_tensorflow

torch.set_num_threads(1)

REAL = Path(__file__).parent / "gpt2_tensorflow"
INDEX, DATA = "model.ckpt.index", "model.ckpt.data-00000-of-00001"
V, N, C, L = 37, 9, 8, 2


def drawn() -> dict[str, np.ndarray]:
    """The values that TensorFlow was given (gpt2_tensorflow/README.md), by our names and layout."""
    rng = np.random.default_rng(5)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.3, shape).astype(np.float32)

    out = {"wpe.weight": draw(N, C), "wte.weight": draw(V, C)}
    maps = {"attn.c_attn": (C, 3 * C), "attn.c_proj": (C, C)}
    maps |= {"mlp.c_fc": (C, 4 * C), "mlp.c_proj": (4 * C, C)}
    for i in range(L):
        for norm in ("ln_1", "ln_2"):
            out |= {f"h.{i}.{norm}.bias": draw(C), f"h.{i}.{norm}.weight": draw(C)}
        for name, (n_in, n_out) in maps.items():
            out |= {f"h.{i}.{name}.weight": draw(n_in, n_out).T, f"h.{i}.{name}.bias": draw(n_out)}
    return out | {"ln_f.bias": draw(C), "ln_f.weight": draw(C)}


def test_a_checkpoint_of_tensorflow_is_read_to_the_bit(tmp_path):
    counts = import_tensorflow(REAL, tmp_path / "ours")
    state = checkpoint.load(tmp_path / "ours").state_dict()
    expected = drawn()
    assert state.keys() == expected.keys()
    assert all(np.array_equal(state[name].numpy(), expected[name]) for name in expected)
    assert counts == {"tensors": 12 * L + 4, "parameters": sum(x.size for x in expected.values())}


def test_the_vocabulary_comes_along(tmp_path):
    shutil.copytree(REAL, tmp_path / "release")
    for name in ("encoder.json", "vocab.bpe"):
        (tmp_path / "release" / name).write_text(name)
    import_tensorflow(tmp_path / "release", tmp_path / "ours")
    assert (tmp_path / "ours/tokenizer/vocab.bpe").read_text() == "vocab.bpe"


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Flip a bit, cut the end off, swap two pieces or fill a piece with noise."""
    way, at = rng.randrange(4), rng.randrange(len(data))
    if way == 0:
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if way == 1:
        return data[:at]
    if way == 2:
        return data[at:] + data[:at]
    return data[:at] + rng.randbytes(rng.randrange(1, 20)) + data[at + 20 :]


def read_all(folder: Path) -> None:
    for name, entry in bundle.read_index(folder / INDEX).items():
        bundle.read_tensor(folder / DATA, name, entry)


@pytest.mark.parametrize(("name", "times"), [(INDEX, 300), (DATA, 30)])
def test_damage_is_refused(tmp_path, name, times):
    shutil.copytree(REAL, tmp_path / "broken")
    rng, good = random.Random(1), (REAL / name).read_bytes()
    for _ in range(times):
        bad = damaged(good, rng)
        if bad == good:
            continue
        (tmp_path / "broken" / name).write_bytes(bad)
        with pytest.raises(ValueError, match=name.split("-")[0]):
            read_all(tmp_path / "broken")


def test_a_hostile_index_with_right_checksums_is_refused():
    """Noise where blocks and messages are parsed, past the checksums."""
    rng = random.Random(2)
    good = (REAL / INDEX).read_bytes()
    rows = [value for _, value in bundle._rows(good)]
    for _ in range(3000):
        bad = damaged(rng.choice(rows[1:]), rng)
        for parse in (bundle._entry, lambda x: list(bundle._entries(x)), bundle.unsnap):
            try:
                parse(bad)
            except (ValueError, IndexError, bundle.struct.error):  # what read_index turns
                continue


@pytest.mark.parametrize(
    ("field", "value"),
    [("n_layer", 10**9), ("n_embd", 2**62), ("n_vocab", 38), ("n_head", 3), ("n_ctx", "9")],
)
def test_hparams_of_another_model_are_refused(tmp_path, field, value):
    shutil.copytree(REAL, tmp_path / "other")
    values = json.loads((REAL / "hparams.json").read_text()) | {field: value}
    (tmp_path / "other/hparams.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"hparams\.json"):
        import_tensorflow(tmp_path / "other", tmp_path / "ours")


def test_crc32c_known_answers():
    """RFC 3720, appendix B.4."""
    assert bundle.crc32c(np.zeros(32, np.uint8)) == 0x8A9136AA
    assert bundle.crc32c(np.full(32, 255, np.uint8)) == 0x62A8AB43
    assert bundle.crc32c(np.arange(32, dtype=np.uint8)) == 0x46DD794E


def test_crc32c_side_by_side_is_crc32c_in_a_row(monkeypatch):
    data = np.random.default_rng(0).integers(0, 256, 70_001).astype(np.uint8)
    fast = bundle.crc32c(data)
    monkeypatch.setattr(bundle, "LANES", 2**40)  # one lane
    assert bundle.crc32c(data) == fast


@pytest.mark.parametrize("text", [b"", b"a", b"abab" * 999, bytes(range(256)) * 300])
def test_snappy(text):
    packed = pyarrow.compress(text, codec="snappy", asbytes=True)
    assert bundle.unsnap(packed) == text
    noise = np.random.default_rng(1).integers(0, 9, 70_000).astype(np.uint8).tobytes()
    assert bundle.unsnap(pyarrow.compress(noise, codec="snappy", asbytes=True)) == noise


def test_snappy_that_claims_too_much_is_refused():
    with pytest.raises(ValueError, match="too large"):
        bundle.unsnap(b"\xff\xff\xff\xff\x0f")


def test_the_files_of_a_folder_say_whose_they_are(tmp_path):
    assert import_any(REAL, tmp_path / "ours") == import_tensorflow(REAL, tmp_path / "same")
    assert (tmp_path / "ours/model.safetensors").read_bytes() == (
        tmp_path / "same/model.safetensors"
    ).read_bytes()
    with pytest.raises(FileNotFoundError, match=r"hparams\.json"):
        import_any(tmp_path, tmp_path / "none")
