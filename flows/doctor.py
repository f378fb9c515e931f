"""`textmill doctor`: is everything here that a run needs, and how to mend what is not."""

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from flows.consistency import Check, examine_state
from flows.settings import MLFLOW_PORT, PREFECT_PORT, enter, running_services
from flows.supervise import port_is_free
from registry.workspace import Workspace

MIN_FREE = 5 * 2**30  # bytes: three checkpoints of GPT-2 small with their optimizer state
# Ranges whose breach was seen to break a start, beside those in pyproject.toml.
RANGES = ("fastapi>=0.139,<0.151", "prefect==3.8.8", "lightning>=2.6.6,<2.7", "torch>=2.13,<2.16")


def examine(*, fix: bool = False) -> Iterator[Check]:
    """Look at everything, one check after the other; mend what `fix` can."""
    yield Check(
        "Python",
        sys.version_info >= (3, 11),
        sys.version.split()[0],
        "install Python 3.11 or newer",
    )
    yield from package_checks()
    try:
        workspace = enter()
    except ValueError as error:
        yield Check("project", False, str(error), "change into a clone of textmill")
        return
    yield Check("project", True, str(workspace.root))
    yield data_check(workspace)
    yield disk_check(workspace.root)
    yield from port_checks(workspace)
    yield allocator_check()
    yield kernels_check()
    yield device_check()
    yield from examine_state(workspace, fix=fix)


def package_checks() -> Iterator[Check]:
    """Compare installed versions with the ranges that run together."""
    for text in RANGES:
        wanted = Requirement(text)
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            yield Check(wanted.name, False, "not installed", "pip install -c constraints.txt -e .")
            continue
        good = wanted.specifier.contains(Version(found), prereleases=True)
        mend = "" if good else f"pip install -c constraints.txt '{text}'"
        yield Check(wanted.name, good, found, mend)


def data_check(workspace: Workspace) -> Check:
    """Is the pinned input data here?"""
    there = workspace.data.is_dir() and any(workspace.data.iterdir())
    found = "data/ is there" if there else "data/ is missing"
    return Check("input data", there, found, "" if there else "make data (or: dvc pull data.dvc)")


def disk_check(root: Path) -> Check:
    """Is there room for checkpoints?"""
    free = shutil.disk_usage(root).free
    good = free >= MIN_FREE
    mend = "" if good else f"free space below {root}, or move the project"
    return Check("disk", good, f"{free / 2**30:.0f} GiB free", mend)


def port_checks(workspace: Workspace) -> Iterator[Check]:
    """Could `textmill up` start?"""
    if services := running_services(workspace):
        yield Check("servers", True, f"up: {services['prefect']}, {services['mlflow']}")
        return
    for port, flag in ((PREFECT_PORT, "--prefect-port"), (MLFLOW_PORT, "--mlflow-port")):
        free = port_is_free(port)
        mend = "" if free else f"textmill up {flag} ANOTHER"
        yield Check(f"port {port}", free, "free" if free else "taken", mend)


def allocator_check() -> Check:
    """Which memory allocator will training processes run with, and is there a better one?"""
    from modules.training.fit import child_environment, keeps_pages

    preload = child_environment(os.environ).get("LD_PRELOAD", "")
    if preload:
        return Check("allocator", True, Path(preload).name)
    if not keeps_pages():
        found = " ".join(platform.libc_ver()) or "the system's"
        mend = "apt install libtcmalloc-minimal4: bfloat16 without kernels is 1.3 times as fast"
        return Check("allocator", False, found, mend)
    if huge_pages() == "never":
        mend = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled (as root)"
        return Check("allocator", True, "glibc, told to keep its pages, none of them huge", mend)
    return Check("allocator", True, "glibc, told to keep its pages, huge ones (tcmalloc's speed)")


def huge_pages(setting: Path = Path("/sys/kernel/mm/transparent_hugepage/enabled")) -> str:
    """Return the kernel's choice: always, madvise, never; or never where it has none."""
    found = re.search(r"\[(\w+)\]", setting.read_text()) if setting.exists() else None
    return found[1] if found else "never"


def kernels_check() -> Check:
    """Does CPU training in bfloat16 use the compiled kernels?"""
    from modules.kernels.build import status

    found = status()
    return Check("kernels", True, found, "apt install g++" if "compiler" in found else "")


def device_check() -> Check:
    """What would training run on?"""
    import torch

    if torch.cuda.is_available():
        return Check(
            "device", True, f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
        )
    return Check("device", True, f"CPU, {os.cpu_count()} cores (no GPU is needed for the sample)")
