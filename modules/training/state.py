"""Training-state checkpoints: whole, verified, or not there at all.

step-00001200/ holds one .safetensors per group of tensors, state.json, and MANIFEST.json with its
own name and the size and SHA-256 of each. It is written under another name, fsynced, renamed, read
again and verified; only then older ones are removed. Resuming takes the newest one that verifies; a
damaged one is renamed .corrupt and kept. No pickle (DESIGN.md, decision 5), and no number that is
not finite: a state that holds one is refused before a byte is written.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
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


def copied(state: State) -> State:
    """Return the state as it is now, on the CPU, whatever becomes of the tensors in it."""
    tensors = {
        group: {name: t.detach().to("cpu", copy=True).contiguous() for name, t in named.items()}
        for group, named in state.tensors.items()
    }
    return State(tensors, json.loads(json.dumps(state.values)))


def save(
    folder: Path, step: int, state: State, *, keep: int = 3, spare: Collection[int] = ()
) -> Path:
    """Write the checkpoint of a step and remove all but the newest `keep`; return its directory.

    Args:
        spare: steps whose checkpoints stay although they are older.

    Raises:
        FloatingPointError: a tensor holds a value that is not finite; nothing was written.
        DamagedState: what was written does not read back (the older ones are then still there).
        OSError: the disk is full or broken; the older ones are untouched.
    """
    for group, tensors in state.tensors.items():
        check_finite(tensors, f"checkpoint of step {step}, {group}")
    final = folder / f"step-{step:08d}"
    temporary = folder / f"{final.name}.tmp-{os.getpid()}"
    with _disk_errors(folder, step, state):
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder)
        try:
            temporary.mkdir()
            _write(temporary, state, final.name)
            if final.exists():  # the same step again after a resume: same bytes
                _remove(final)
            temporary.rename(final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        fsync_directory(folder)
        verify(final)
        for old in _finished(folder)[:-keep]:
            if _step(old) not in spare:
                _remove(old)
    return final


def check_finite(tensors: dict[str, Tensor], where: str) -> None:
    """Refuse tensors with a NaN or an infinity in them.

    Raises:
        FloatingPointError: naming the tensor.
    """
    for name, tensor in tensors.items():
        if not (tensor.is_floating_point() and tensor.numel()):
            continue
        if not torch.stack(tensor.aminmax()).isfinite().all():  # NaN is passed on by both
            raise FloatingPointError(
                f"{where}: {name} is not finite, so nothing was written; what was written before "
                "is good: run it again to go on from there, with a lower optim.lr if it comes back"
            )


@contextmanager
def _disk_errors(folder: Path, step: int, state: State) -> Iterator[None]:
    """Say which disk failed and what mends it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = error.errno if isinstance(error, OSError) else errno.ENOSPC
        if isinstance(error, SafetensorError) and "os error" not in str(error):
            raise
        need = sum(t.nbytes for named in state.tensors.values() for t in named.values())
        there = [_step(path) for path in _finished(folder)]
        raise OSError(
            number,
            f"checkpoint of step {step} not finished: {error}; it needs {need / 1e6:.1f} MB, the "
            f"disk of {folder} has {shutil.disk_usage(folder.parent).free / 1e6:.1f} MB free. "
            "Make room (or mend the disk) and run it again: it goes on from "
            + (f"step {max(there)}" if there else "the start"),
        ) from error


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


def discard_after(folder: Path, step: int) -> None:
    """Remove the checkpoints of later steps: the run goes another way from here."""
    for path in reversed(_finished(folder)):
        if _step(path) > step:
            _remove(path)


def verify(path: Path) -> list[str]:
    """Check every file of a checkpoint against its manifest; return their names.

    Raises:
        DamagedState: naming the checkpoint and the file.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        files = {str(name): dict(entry) for name, entry in manifest["files"].items()}
        name, declared = manifest["name"], manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedState(f"{path.name}: {MANIFEST} is not readable ({error})") from None
    if declared != _digest(name, files):
        raise DamagedState(f"{path.name}: {MANIFEST} does not match its own sha256")
    if name != path.name:
        raise DamagedState(f"{path.name}: {MANIFEST} is that of {name}")
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


def _remove(path: Path) -> None:
    """Remove a checkpoint; a kill on the way leaves no half of one under its name."""
    shutil.rmtree(path.rename(path.with_name(f"{path.name}.tmp-old")))


def _write(folder: Path, state: State, name: str) -> None:
    for group, tensors in state.tensors.items():
        whole = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        safetensors.torch.save_file(whole, folder / f"{group}.safetensors")
    (folder / "state.json").write_text(json.dumps(state.values, sort_keys=True, allow_nan=False))
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.iterdir())
    }
    manifest = {"name": name, "files": files, "sha256": _digest(name, files)}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
    for path in folder.iterdir():
        _fsync(path)
    fsync_directory(folder)


def _digest(name: str, files: dict[str, dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps([name, files], sort_keys=True).encode()).hexdigest()


def _finished(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("step-*") if p.name.removeprefix("step-").isdigit())


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


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
