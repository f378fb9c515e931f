"""R18: many flow runs with faults leave nothing behind: no process, handle, file, row or byte.

200 runs take about three minutes on two idle cores; TEXTMILL_SOAK changes their number.
"""

import ctypes
import gc
import logging
import os
import random
import tempfile
from functools import partial
from pathlib import Path

import psutil
import pytest
from prefect import flow

from flows.settings import enter
from flows.stage import Interrupted, stage
from modules.config import Config
from registry import catalogue, db, runs
from registry.tables import Kind, Status

RUNS = int(os.environ.get("TEXTMILL_SOAK", "200"))
WARM = 20  # runs until caches and pools have their size
MEGABYTE = 2**20


class Thing(Config):
    """What one run makes."""

    number: int
    """Which run it is."""


@flow(name="soak", flow_run_name="soak-{number}")
def soak(number: int, fault: Exception | None) -> None:
    """Make one artifact, or fail half-way."""
    with stage("soak", {"number": number}) as at:

        def step(out: Path, progress) -> dict[str, int]:
            (out / "half").write_bytes(b"x" * 10_000)
            progress(1, 2, "half")
            if fault:
                raise fault
            (out / "whole").write_text(str(number))
            return {"bytes": 10_000}

        config = Thing(number=number)
        at.make(Kind.TOKENS, "soak", step, config=config, inputs={}, version=1)
        at.log({"loss": 1.0 / (number + 1)})


def left(root: Path) -> dict[str, int]:
    """Count what a run could leave behind."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    me = psutil.Process()
    temporary = list(Path(tempfile.gettempdir()).glob("*"))
    return {
        "processes": len(me.children(recursive=True)),
        "handles": me.num_fds(),
        "temporary": len(temporary),
        "shared": len([path for path in Path("/dev/shm").iterdir() if is_ours(path)]),
        "unfinished": len(list((root / ".textmill" / "tmp").rglob("*.tmp*"))),
        "wal": sum(path.stat().st_size for path in (root / ".textmill").glob("*-wal")),
        "memory": me.memory_info().rss,
    }


def is_ours(path: Path) -> bool:
    """Tell whether shared memory was made by this process (torch and multiprocessing say so)."""
    return str(os.getpid()) in path.name


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_nothing_is_left_behind(prefect_server, in_fresh_project, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    workspace = enter()
    draw = random.Random(0)
    # each its own: an exception raised again keeps the frames, so the clients, of all times before
    faults = [
        partial(OSError, 28, "No space left on device"),
        partial(Interrupted, "stopped"),
        partial(ValueError, "bad row"),
    ]
    planned = [draw.choice(faults) if draw.random() < 0.1 else None for _ in range(RUNS)]

    def run_all(begin: int, end: int) -> None:
        with monkeypatch.context() as patch:
            # pytest's handlers keep every record, with the frames of its exception
            patch.setattr(logging.root, "handlers", [])
            for number in range(begin, end):
                fault = planned[number]
                run(number, fault() if fault else None)

    run_all(0, WARM)
    before = left(in_fresh_project)
    run_all(WARM, RUNS)
    after = left(in_fresh_project)
    logging.getLogger(__name__).warning("before and after: %s, %s", before, after)
    assert after["processes"] <= before["processes"]
    assert after["handles"] <= before["handles"] + 2
    assert after["temporary"] <= before["temporary"]
    assert after["shared"] <= before["shared"]
    assert after["unfinished"] == 0
    assert after["wal"] <= 64 * MEGABYTE
    # RELIABILITY R18: 1 MB in 50 runs of one process (seen: 4.2 in 180), and 2 for noise of a look
    assert after["memory"] - before["memory"] <= MEGABYTE * ((RUNS - WARM) / 50 + 2)
    failed = sum(fault is not None for fault in planned)
    with db.reading(workspace.database_url) as session:
        begun = runs.list_runs(session, stage="soak", limit=RUNS + 1)
        made = catalogue.list_artifacts(session, name="soak", limit=RUNS + 1)
    assert len(begun) == RUNS
    assert len(made) == RUNS - failed
    assert sum(run.status == Status.COMPLETED for run in begun) == RUNS - failed
    assert not any(run.status == Status.RUNNING for run in begun)


def run(number: int, fault: Exception | None) -> None:
    """Run the flow; a planned fault must come out of it."""
    if fault is None:
        soak(number, None)
        return
    with pytest.raises(type(fault)):
        soak(number, fault)
