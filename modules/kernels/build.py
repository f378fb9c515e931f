"""Compile the C++ kernels with the system's compiler at first use, and load them.

Plain C functions called through ctypes: no headers of PyTorch, so some seconds are enough. The
library lies in the user's cache folder under the hash of sources, flags and processor; it shares
PyTorch's OpenMP threads, whose library has the same name. What it multiplies is what the processor
is best at: bfloat16 with AMX or AVX512-BF16, float32 with AVX2. Where there is no compiler or a
processor of another kind, callers use their plain PyTorch twins.
"""

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

SOURCES = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared")
OFF = "TEXTMILL_NO_KERNELS"  # any value: the plain twins only


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None where the plain twins must do."""
    if reason := missing():
        log.info("no own CPU kernels: %s", reason)
        return None
    try:
        found = ctypes.CDLL(str(_compiled()))
        if not found.element_bytes():
            raise OSError("the system does not let this process use AMX")
        return found
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("no own CPU kernels, PyTorch does their work: %s", error)
        return None


def element() -> torch.dtype | None:
    """Return what the kernels multiply and store activations as; None: there are none."""
    found = library()
    if found is None:
        return None
    # the library says it, not the processor: an old compiler may not know what that can do
    return torch.bfloat16 if found.element_bytes() == 2 else torch.float32


def kind() -> str | None:
    """Return in words what the kernels multiply and on what; their last bits depend on it."""
    found = library()
    if found is None:
        return None
    found.kind.restype = ctypes.c_char_p
    return str(found.kind(), "ascii")


def call(name: str, *arguments: Tensor | int | float) -> None:
    """Call a C function: tensors as pointers (contiguous), whole numbers as long."""
    found = library()
    assert found is not None
    getattr(found, name)(*map(_argument, arguments))  # found[name] would be looked up each time


def _argument(value: Tensor | int | float) -> Any:
    if isinstance(value, Tensor):
        assert value.is_contiguous(), "kernels take contiguous tensors"
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_long(value) if isinstance(value, int) else ctypes.c_float(value)


def status() -> str:
    """Return in words whether the kernels are used here, and what to do if not."""
    if reason := missing():
        return reason
    return f"compiled, {kind()}" if library() else "not usable; see the log"


def missing() -> str:
    """Return why kernels are not for this machine, empty: they should be here."""
    if os.environ.get(OFF):
        return f"switched off by {OFF}"
    if not _has("avx512_bf16"):
        if _has("avx512_f"):
            return "the processor has AVX512 without BF16: PyTorch's own products are used"
        if not (_has("avx2") and _has("fma3")):
            return "the processor has neither AVX2 nor AVX512-BF16"
    if _compiler() is None:
        return "no C++ compiler: install g++"
    return ""


def _has(ability: str) -> bool:
    return bool(torch.cpu.get_capabilities().get(ability))


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "g++"))


def _compiled() -> Path:
    """Return the library of these sources for this processor, compiled if it is not there."""
    compiler = _compiler()
    assert compiler is not None
    files = sorted(SOURCES.glob("*.cpp"))
    parts = [path.read_bytes() for path in sorted([*files, *SOURCES.glob("*.h")])]
    about = [*FLAGS, compiler, repr(sorted(torch.cpu.get_capabilities().items()))]
    key = hashlib.sha256(b"\0".join([*parts, *(text.encode() for text in about)])).hexdigest()
    path = _folder() / f"kernels-{key[:24]}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as room:
            made = Path(room) / path.name
            command = [compiler, *FLAGS, *map(str, files), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode:
                raise subprocess.SubprocessError(done.stderr.strip()[-2000:])
            made.replace(path)  # another process may have been first: the same bytes
    return path


def _folder() -> Path:
    """Return the user's own cache folder: what lies there is loaded as code."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "textmill"
    with suppress(OSError):  # a home that cannot be written: compiled again by each process
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        if found.st_uid == os.getuid() and not found.st_mode & 0o022 and os.access(folder, os.W_OK):
            return folder
    return Path(tempfile.mkdtemp(prefix="textmill-kernels-"))
