"""What doctor says of memory and kernels follows from what trainings will really get."""

import platform

import pytest

from flows import doctor
from modules.kernels import build
from modules.training.fit import ALLOCATOR, allocator


@pytest.mark.parametrize(
    ("libc", "tcmalloc", "environment", "good"),
    [
        (("glibc", "2.36"), "libtcmalloc_minimal.so.4", ALLOCATOR, True),
        (("glibc", "2.31"), "libtcmalloc_minimal.so.4", None, True),
        (("glibc", "2.31"), None, ALLOCATOR, False),
        (("", ""), None, ALLOCATOR, False),
    ],
    ids=["new glibc", "old glibc", "old glibc alone", "another libc"],
)
def test_allocator(monkeypatch, libc, tcmalloc, environment, good):
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    monkeypatch.setattr("ctypes.util.find_library", lambda name: tcmalloc)
    assert allocator() == (environment or {"LD_PRELOAD": tcmalloc})
    check = doctor.allocator_check()
    assert check.good == good
    if good and environment is None:
        assert check.found == tcmalloc
    if not good:
        assert "libtcmalloc-minimal4" in check.mend


def test_huge_pages(tmp_path):
    setting = tmp_path / "enabled"
    assert doctor.huge_pages(setting) == "never"
    setting.write_text("always [madvise] never\n")
    assert doctor.huge_pages(setting) == "madvise"


def test_kernels(monkeypatch):
    monkeypatch.setattr(build, "missing", lambda: "no C++ compiler: install g++")
    assert doctor.kernels_check().mend == "apt install g++"
    monkeypatch.setattr(build, "missing", lambda: "the processor has no AVX512-BF16")
    check = doctor.kernels_check()
    assert check.found == "the processor has no AVX512-BF16" and not check.mend and check.good
