"""Checkpoints on disk: config.json and model.safetensors, nothing that can run code.

Loading checks the names, shapes and types of all tensors against the config before it builds
anything. A tuned checkpoint is the same with the head's tensors under `head.` and the head's config
under "head" in config.json.
"""

import json
import os
import struct
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from modules.config import Config
from modules.files import atomic_write, write_json
from modules.model.base import Decoder, skeleton
from modules.model.gpt import GPT, GPTConfig
from modules.model.heads import HeadConfig, TaskModel
from modules.model.lstm import LSTM, LSTMConfig

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FLOATS = ("F32", "F16", "BF16", "F64")  # types of weights we read; all become float32
MAX_HEADER = 100 * 2**20  # bytes; safetensors' own limit


def build(config: Config | dict[str, Any]) -> GPT | LSTM:
    """Return a new model of a config, or of a config's JSON, with freshly drawn weights.

    Raises:
        ValueError: the architecture is unknown, or a field is wrong.
    """
    if isinstance(config, dict):
        config = read_config(config)
    if isinstance(config, GPTConfig):
        return GPT(config)
    if isinstance(config, LSTMConfig):
        return LSTM(config)
    raise ValueError(f"no model is built from a {type(config).__name__}: GPTConfig or LSTMConfig")


def read_config(values: dict[str, Any]) -> GPTConfig | LSTMConfig:
    """Return the checked config of JSON values.

    Raises:
        ValueError: the architecture is unknown, or a field is wrong.
    """
    match values.get("architecture"):
        case "gpt":
            return GPTConfig.model_validate(values)
        case "lstm":
            return LSTMConfig.model_validate(values)
        case other:
            raise ValueError(f"architecture {other!r}: expected 'gpt' or 'lstm'")


def save(model: Decoder | TaskModel, out: Path) -> None:
    """Write config.json and model.safetensors of a model into the directory `out`."""
    decoder = model.decoder if isinstance(model, TaskModel) else model
    config = decoder.config.model_dump(mode="json")
    tensors = dict(decoder.state_dict())
    if isinstance(model, TaskModel):
        config["head"] = model.config.model_dump(mode="json")
        tensors |= {f"head.{name}": t for name, t in model.head.state_dict().items()}
    write_tensors(out / WEIGHTS, tensors)
    write_json(out / CONFIG, config)


def load(directory: Path, device: torch.device | str = "cpu") -> GPT | LSTM:
    """Return the model of a checkpoint in evaluation mode; a tuned one without its head.

    Raises:
        FileNotFoundError: config.json or model.safetensors is not there.
        ValueError: they are not ours, or do not belong together; the message names what is wrong.
    """
    config, head = _read_configs(directory)
    with skeleton():
        model = build(config)
    expected = model.state_dict()
    if head is not None:
        expected |= _head_state(TaskModel(model, head))
    tensors = read_tensors(directory / WEIGHTS, _shapes(expected), device=device)
    _fill(model, {name: t for name, t in tensors.items() if not name.startswith("head.")})
    return model.eval()


def load_task_model(directory: Path, device: torch.device | str = "cpu") -> TaskModel:
    """Return the decoder and head of a tuned checkpoint in evaluation mode.

    Raises:
        FileNotFoundError, ValueError: as `load`; also where the checkpoint has no head.
    """
    config, head = _read_configs(directory)
    if head is None:
        raise ValueError(f"{directory / CONFIG}: no 'head': this checkpoint is not fine-tuned")
    with skeleton():
        model = TaskModel(build(config), head)
    expected = model.decoder.state_dict() | _head_state(model)
    tensors = read_tensors(directory / WEIGHTS, _shapes(expected), device=device)
    renamed = {n if n.startswith("head.") else f"decoder.{n}": t for n, t in tensors.items()}
    _fill(model, renamed)
    return model.eval()


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as safetensors, whole or not at all; equal tensors are equal bytes."""
    plain = {name: t.detach().cpu().contiguous() for name, t in sorted(tensors.items())}
    with atomic_write(path) as file:
        save_file(plain, file.name, metadata={"format": "pt"})
        # It has put a file of its own, private and not yet durable, in the place of ours.
        os.chmod(file.name, os.fstat(file.fileno()).st_mode)  # noqa: PTH101  one file, two names
        with Path(file.name).open("rb") as written:
            os.fsync(written.fileno())


def read_tensors(
    path: Path, shapes: dict[str, tuple[int, ...]], *, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file as float32, checked against names and shapes.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: not safetensors, or a tensor is missing, unexpected, misshapen or no float.
    """
    found = read_header(path)
    check_tensors(path, found, shapes)
    with safe_open(path, "pt", device=str(device)) as file:
        return {name: file.get_tensor(name).to(torch.float32) for name in sorted(found)}


def read_header(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return the shape and type of each tensor in a safetensors file.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: the file is not safetensors (a pickle, a cut-off or damaged file).
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: expected a safetensors file")
    with path.open("rb") as file:
        start = file.read(8)
    if len(start) < 8 or struct.unpack("<Q", start)[0] > MAX_HEADER:
        raise ValueError(f"{path} is not a safetensors file (pickled weights are never loaded)")
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  not a dict
            return {n: (tuple(s.get_shape()), str(s.get_dtype())) for n, s in slices.items()}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from None


def check_tensors(
    path: Path,
    found: dict[str, tuple[tuple[int, ...], str]],
    expected: dict[str, tuple[int, ...]],
) -> None:
    """Compare names, shapes and types of tensors with what a config needs.

    Raises:
        ValueError: names every tensor that is wrong, up to five of a kind.
    """
    both = sorted(found.keys() & expected.keys())
    shapes = [
        f"{name} is {list(found[name][0])}, expected {list(expected[name])}"
        for name in both
        if found[name][0] != expected[name]
    ]
    types = [f"{n} is of type {found[n][1]}" for n in both if found[n][1] not in FLOATS]
    wrong = {
        "missing: ": sorted(expected.keys() - found.keys()),
        "unexpected: ": sorted(found.keys() - expected.keys()),
        "wrong shape: ": shapes,
        f"wrong type (expected one of {', '.join(FLOATS)}): ": types,
    }
    if any(wrong.values()):
        listed = "; ".join(what + _some(names) for what, names in wrong.items() if names)
        raise ValueError(f"{path} does not fit its config: {listed}")


def _some(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _read_configs(directory: Path) -> tuple[GPTConfig | LSTMConfig, HeadConfig | None]:
    """Return the decoder's config, and the head's where there is one."""
    path = directory / CONFIG
    values = read_json_object(path)
    head = values.pop("head", None)
    try:
        return read_config(values), None if head is None else HeadConfig.model_validate(head)
    except ValidationError as error:
        raise ValueError(f"{path}: {first_error(error)}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def first_error(error: ValidationError) -> str:
    """Return the first thing that is wrong with a config, on one line."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "config"
    return f"{field}: {first['msg']}"


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: it holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: {path.parent} is not a checkpoint")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected an object, got {str(values)[:40]!r}")
    return values


def _shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in state.items()}


def _head_state(model: TaskModel) -> dict[str, Tensor]:
    return {f"head.{name}": t for name, t in model.head.state_dict().items()}


def _fill(model: torch.nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put checked tensors in the place of a model's meta tensors."""
    model.load_state_dict(tensors, assign=True)
    model.requires_grad_(True)
