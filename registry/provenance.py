"""What made a thing: the code, the libraries, the process."""

import getpass
import os
import socket
import subprocess
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

LIBRARIES = ("torch", "lightning", "numpy", "tokenizers", "tiktoken", "safetensors", "mlflow")
NO_COMMIT = "no-commit"


@cache
def code_version() -> str:
    """Return textmill's own version."""
    return metadata.version("textmill")


@cache
def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that decide over bytes."""
    found = {}
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def git_commit(root: Path) -> str:
    """Return the checked-out commit, with "-dirty" where tracked files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=30)
    except FileNotFoundError:  # no git on this machine
        return NO_COMMIT
    return done.stdout.strip() if done.returncode == 0 else NO_COMMIT


def this_host() -> str:
    """Return this machine's name."""
    return socket.gethostname()


def this_user() -> str:
    """Return who runs this process, as user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{this_host()}"


def process_started(pid: int) -> int | None:
    """Return the kernel's start tick of a process, None if it is gone (or a zombie)."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.parent.parent.joinpath("self").exists():  # not Linux: ask whether the pid lives
        return 0 if _alive(pid) else None
    try:
        fields = stat.read_text().rpartition(")")[2].split()  # the name may hold spaces
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])


def _alive(pid: int) -> bool:
    """Say whether a process id is in use."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
