"""Training-state checkpoints: whole, verified, or not there at all.

step-00001200/ holds one .safetensors per group of tensors, state.json, and MANIFEST.json with the
size and SHA-256 of each. It is written under another name, fsynced, renamed, read again and
verified; only then older ones are removed. Resuming takes the newest one that verifies; a damaged
one is renamed .corrupt and kept. No pickle (DESIGN.md, decision 5).
"""

import hashlib
import json
import logging
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from modules.files import fsync_directory, sha256

log = logging.getLogger(__name__)

MANIFEST = "MANIFEST.json"


@dataclass(frozen=True)
class State:
    """What a checkpoint holds: groups of named tensors, and JSON values."""

    tensors: dict[str, dict[str, Tensor]]
    values: dict[str, Any]


class DamagedState(ValueError):
    """A checkpoint does not hold the bytes that were written; the message names the file."""


def save(folder: Path, step: int, state: State, *, keep: int = 3) -> Path:
    """Write the checkpoint of a step and remove all but the newest `keep`; return its directory.

    Raises:
        DamagedState: what was written does not read back (the older ones are then still there).
        OSError: the disk is full or broken; the older ones are untouched.
    """
    final = folder / f"step-{step:08d}"
    temporary = folder / f"{final.name}.tmp-{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    remove_unfinished(folder)
    temporary.mkdir()
    try:
        _write(temporary, state)
        if final.exists():  # the same step again after a resume: same bytes
            shutil.rmtree(final)
        temporary.rename(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    fsync_directory(folder)
    verify(final)
    for old in _finished(folder)[:-keep]:
        leaving = old.rename(folder / f"{old.name}.tmp-old")  # a kill must not leave half of it
        shutil.rmtree(leaving)
    return final


def load_newest(folder: Path) -> State | None:
    """Return the newest state that verifies, or None; damaged ones are renamed .corrupt."""
    for path in reversed(_finished(folder)):
        try:
            return load(path)
        except DamagedState as error:
            log.warning("%s; going back to an older checkpoint", error)
            with suppress(FileNotFoundError):  # another rank was first
                path.rename(_free_name(path.with_name(path.name + ".corrupt")))
    return None


def load(path: Path) -> State:
    """Read one checkpoint after checking every byte of it.

    Raises:
        DamagedState: a file is missing, cut short or changed.
    """
    files = verify(path)
    tensors = {
        name.removesuffix(".safetensors"): safetensors.torch.load_file(path / name)
        for name in files
        if name.endswith(".safetensors")
    }
    return State(tensors, json.loads((path / "state.json").read_text()))


def verify(path: Path) -> list[str]:
    """Check every file of a checkpoint against its manifest; return their names.

    Raises:
        DamagedState: naming the checkpoint and the file.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        files = {str(name): dict(entry) for name, entry in manifest["files"].items()}
        declared = manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedState(f"{path.name}: {MANIFEST} is not readable ({error})") from None
    if declared != _digest(files):
        raise DamagedState(f"{path.name}: {MANIFEST} does not match its own sha256")
    present = {file.name for file in path.iterdir()} - {MANIFEST}
    if present != set(files):
        raise DamagedState(f"{path.name}: has files {sorted(present)}, wants {sorted(files)}")
    for name, entry in files.items():
        size, digest = (path / name).stat().st_size, sha256(path / name)
        if (size, digest) != (entry["bytes"], entry["sha256"]):
            raise DamagedState(
                f"{path.name}: {name} is damaged (want {entry['bytes']} bytes, sha256 "
                f"{entry['sha256'][:12]}; got {size}, {digest[:12]})"
            )
    return list(files)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed writers left behind (one process writes a folder at a time)."""
    for path in folder.glob("step-*.tmp-*"):
        shutil.rmtree(path)


def _write(folder: Path, state: State) -> None:
    for name, tensors in state.tensors.items():
        whole = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        safetensors.torch.save_file(whole, folder / f"{name}.safetensors")
    (folder / "state.json").write_text(json.dumps(state.values, sort_keys=True))
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.iterdir())
    }
    (folder / MANIFEST).write_text(
        json.dumps({"files": files, "sha256": _digest(files)}, indent=1, sort_keys=True)
    )
    for path in folder.iterdir():
        _fsync(path)
    fsync_directory(folder)


def _digest(files: dict[str, dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _finished(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("step-*") if p.name.removeprefix("step-").isdigit())


def _free_name(path: Path) -> Path:
    number = 0
    candidate = path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
