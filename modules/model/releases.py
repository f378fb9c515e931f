"""OpenAI's own releases to our checkpoints: GPT-1's numpy pieces, GPT-2's TensorFlow files.

Names, shapes and order are those of gpt1.md section 10 and gpt2.md section 3; weights.py has what
these share with Hugging Face's files.
"""

import json
import math
import re
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from modules.model import bundle, checkpoint
from modules.model.base import skeleton
from modules.model.gpt import GPT, GPTConfig
from modules.model.weights import (
    TRANSPOSED,
    copy_vocabulary,
    counts,
    filled,
    import_hf,
    public_shape,
)

HPARAMS = {"n_vocab": "vocab_size", "n_ctx": "n_positions", "n_embd": "n_embd"}
HPARAMS |= {"n_head": "n_head", "n_layer": "n_layer"}  # OpenAI's name -> ours
LAST = {"w": ".weight", "g": ".weight", "b": ".bias", "wte": "wte.weight", "wpe": "wpe.weight"}
DATA = "model.ckpt.data-00000-of-00001"


def import_any(folder: Path, out: Path) -> dict[str, int]:
    """Turn a folder of public weights into our checkpoint; what lies in it says whose they are.

    Raises:
        FileNotFoundError: none of the known files is there.
        ValueError: see the three importers.
    """
    kinds = {"config.json": import_hf, "hparams.json": import_tensorflow}
    kinds["params_shapes.json"] = import_openai
    for name, importer in kinds.items():
        if (folder / name).is_file():
            return importer(folder, out)
    raise FileNotFoundError(f"{folder} has no {', '.join(kinds)}: whose weights are these?")


def import_openai(folder: Path, out: Path) -> dict[str, int]:
    """Turn OpenAI's GPT-1 release (params_shapes.json, params_0.npy ...) into our checkpoint.

    Raises:
        FileNotFoundError: params_shapes.json or a piece is not there.
        ValueError: the pieces do not fit the shapes, or the shapes are not GPT-1's.
    """
    arrays = _read_pieces(folder)
    (n_positions, n_embd), vocab_size = arrays[0].shape, len(arrays[1])
    n_layer = (len(arrays) - 2) // 12  # twelve arrays a block (gpt1.md section 10)
    config = GPTConfig(
        vocab_size=vocab_size,
        n_positions=n_positions,
        n_embd=n_embd,
        n_layer=n_layer,
        n_head=max(1, n_embd // 64),  # 64 features a head (GPT-1 paper, section 4.1)
        norm="post",
        embd_dropout=0.1,  # all three: GPT-1 paper, section 4.1
        attn_dropout=0.1,
        resid_dropout=0.1,
    )
    with skeleton():
        model = GPT(config)
    tensors = dict(zip(_release_names(n_layer), arrays, strict=True))
    shapes = {n: public_shape(n, t) for n, t in model.state_dict().items()}
    header = {name: (tuple(t.shape), "F32") for name, t in tensors.items()}
    checkpoint.check_tensors(folder / "params_shapes.json", header, shapes)
    checkpoint.save(filled(model, tensors), out)
    return counts(model)


def import_tensorflow(folder: Path, out: Path) -> dict[str, int]:
    """Turn OpenAI's GPT-2 release (hparams.json, model.ckpt.*) into our checkpoint.

    The vocabulary (encoder.json, vocab.bpe) comes along where the folder has it.

    Raises:
        FileNotFoundError: hparams.json, the index or the data is not there.
        ValueError: a file is damaged, or not a GPT-2.
    """
    config = _read_hparams(folder / "hparams.json")
    entries = bundle.read_index(folder / "model.ckpt.index")
    _check_sizes(folder, config, entries)
    names = {_our_name(name): name for name in entries}
    if len(names) != len(entries):
        raise ValueError(f"{folder / 'model.ckpt.index'}: two variables stand for one tensor")
    header = {ours: (_flat(ours, entries[name].shape), "F32") for ours, name in names.items()}
    with skeleton():
        model = GPT(config)
    shapes = {n: public_shape(n, t) for n, t in model.state_dict().items()}
    checkpoint.check_tensors(folder / "model.ckpt.index", header, shapes)
    tensors = {
        ours: _tensor(folder / DATA, n, entries[n], shapes[ours]) for ours, n in names.items()
    }
    checkpoint.save(filled(model, tensors), out)
    copy_vocabulary(folder, out / "tokenizer", {n: n for n in ("encoder.json", "vocab.bpe")})
    return counts(model)


def _read_hparams(path: Path) -> GPTConfig:
    values = checkpoint.read_json_object(path)
    if set(values) != set(HPARAMS) or not all(type(value) is int for value in values.values()):
        raise ValueError(f"{path}: expected the whole numbers {', '.join(HPARAMS)}")
    try:
        return GPTConfig.model_validate({HPARAMS[name]: value for name, value in values.items()})
    except ValidationError as error:
        raise ValueError(f"{path}: {checkpoint.first_error(error)}") from None


def _check_sizes(folder: Path, config: GPTConfig, entries: dict[str, bundle.Entry]) -> None:
    """Compare the sizes in hparams.json with the index, before anything of that size is made."""
    expected = {
        "model/wpe": (config.n_positions, config.n_embd),
        "model/wte": (config.vocab_size, config.n_embd),
    }
    fits = len(entries) == 12 * config.n_layer + 4  # gpt2.md section 3
    if not fits or any(n not in entries or entries[n].shape != s for n, s in expected.items()):
        raise ValueError(f"{folder}: hparams.json and model.ckpt.index are of different models")


def _our_name(name: str) -> str:
    """Return our name of a variable: model/h0/attn/c_attn/w is h.0.attn.c_attn.weight."""
    if not name.startswith("model/"):
        return name
    *scopes, last = name.removeprefix("model/").split("/")
    path = ".".join(re.sub(r"^h(\d+)$", r"h.\1", scope) for scope in scopes)
    return path + LAST.get(last, f".{last}")


def _flat(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without the leading 1 of a projection."""
    return shape[1:] if TRANSPOSED.match(name) and shape[:1] == (1,) else shape


def _tensor(path: Path, name: str, entry: bundle.Entry, shape: tuple[int, ...]) -> Tensor:
    array = bundle.read_tensor(path, name, entry).reshape(shape)
    if not np.isfinite(array).all():
        raise ValueError(f"{path}: {name} has values that are not finite: the file is damaged")
    return torch.from_numpy(array)


def _read_pieces(folder: Path) -> list[Tensor]:
    """Return the release's arrays: its pieces joined and cut to the listed shapes."""
    path = folder / "params_shapes.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: {folder} is not OpenAI's GPT-1 release")
    shapes = [tuple(shape) for shape in json.loads(path.read_text())]
    if len(shapes) < 14 or len(shapes) % 12 != 2 or len(shapes[0]) != 2 or len(shapes[1]) != 2:
        raise ValueError(f"{path}: {len(shapes)} shapes; expected positions, tokens, 12 per block")
    pieces = sorted(folder.glob("params_*.npy"), key=lambda p: int(p.stem.split("_")[1]))
    flat = np.concatenate([_read_piece(piece) for piece in pieces] or [np.empty(0, np.float32)])
    if flat.dtype != np.float32 or flat.size != sum(math.prod(shape) for shape in shapes):
        raise ValueError(
            f"{folder}: params_*.npy hold {flat.size} {flat.dtype} numbers; the shapes need "
            f"{sum(math.prod(shape) for shape in shapes)} float32"
        )
    cuts = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    arrays = np.split(flat, cuts)
    return [
        torch.from_numpy(a.reshape(s[1:] if len(s) == 3 else s))  # the leading 1 of a projection
        for a, s in zip(arrays, shapes, strict=True)
    ]


def _read_piece(path: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: not a plain .npy file ({error})") from None
    return array.ravel()


def _release_names(n_layer: int) -> list[str]:
    """Return our names in the order of the release's arrays (gpt1.md section 10)."""
    block = ("attn.c_attn", "attn.c_proj", "ln_1", "mlp.c_fc", "mlp.c_proj", "ln_2")
    names = ["wpe.weight", "wte.weight"]
    for layer in range(n_layer):
        names += [f"h.{layer}.{part}.{kind}" for part in block for kind in ("weight", "bias")]
    return names
