"""The training process, and the parent's side of it.

`python -m modules.training.fit JOB.json` trains in this process: it appends events to a file,
writes a status by rename, and turns SIGTERM into "finish the step, save, exit 75". It dies with
its parent, and exits 0 only when the result is on disk. `launch` starts the same thing from a
process that is warm (fork_server), follows its events and stops it when the caller is interrupted
(RELIABILITY.md decision 2; ECOSYSTEM.md C.1).

job = {"kind": "pretrain", "inputs": {"tokens": path, "tokenizer": path}, "config": {...},
"out": path, "events": path of the event file}, where "tokens" may be {name: path, ...} and "base" a
checkpoint to go on from; or
{"kind": "finetune", "task": name, "inputs": {"checkpoint": path, "data": path}, ...}; or {"kind":
"measure" or "profile", "seconds": number, "inputs": {}, ...}. Beside the events lie its .job.json,
.status.json, .log.
"""

import ctypes
import ctypes.util
import json
import logging
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from modules.files import write_json
from modules.training import fork_server
from modules.training.agent import lasting_error, ranks_of, read_status, run_ranks, tell_agent
from modules.training.events import EventFile, beside, follow_events, read_events
from modules.training.fork_server import PARENT

log = logging.getLogger(__name__)

INTERRUPTED = 75  # exit code of an interrupted run that can be resumed (EX_TEMPFAIL)
GRACE = 25.0  # seconds to finish a step and save; Prefect kills everything at 30
POLL = 0.5  # seconds between looks at the event file
LOG_FORMAT = "%(asctime)s %(name)s %(message)s"
PR_SET_PDEATHSIG = 1  # linux/prctl.h
SECRETS = ("PREFECT_", "AWS_", "AZURE_", "GOOGLE_", "GITHUB_", "HF_TOKEN", "MLFLOW_")
ALLOCATOR = {
    # glibc hands big buffers back to the kernel after each step and faults them in again: keep
    # them, in huge pages. 3 to 6 % of a float32 step without AVX512, much of a bfloat16 one.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
THREADS = {
    # a thread that waits at a barrier lets others run after ~10 us instead of spinning for
    # milliseconds: twice as fast on a busy machine
    "GOMP_SPINCOUNT": "2000",
}


@dataclass(frozen=True)
class Result:
    """How a training process ended."""

    state: Literal["completed", "interrupted", "failed"]
    step: int
    error: str = ""


# --- the child ---------------------------------------------------------------------------------


class StopFlag:
    """Set by SIGTERM or SIGINT; asked after each step."""

    def __init__(self) -> None:
        self.set = False

    def __call__(self) -> bool:
        """Tell whether somebody asked to stop."""
        return self.set

    def handler(self, number: int, frame: FrameType | None) -> None:
        """Note the request and nothing else (a signal may come between any two bytecodes)."""
        self.set = True


def main(path: Path) -> int:
    """Run the job of a file in this process (or as one rank of it); return the exit code."""
    flag = StopFlag()
    signal.signal(signal.SIGTERM, flag.handler)
    signal.signal(signal.SIGINT, flag.handler)
    job = json.loads(path.read_text())
    rank = os.environ.get("RANK")
    parent = os.environ.pop(PARENT, None)
    die_with_parent(int(parent) if rank is None and parent else os.getppid() if rank else None)
    if rank is None and ranks_of(job["config"]) > 1:
        return {"completed": 0, "interrupted": INTERRUPTED}.get(run_ranks(path, job), 1)
    emit = EventFile(Path(job["events"]), silent=rank not in (None, "0"))
    if rank is not None and lasting_error(emit.path):
        return 1  # started again, for nothing
    emit.status("running")
    try:
        finished = not flag.set and train(job, emit, flag)
    except (ValueError, OSError, ArithmeticError, RuntimeError) as error:
        with suppress(OSError):  # the disk may be full: the log still says why
            emit.status("failed", error=f"{type(error).__name__}: {error}")
        if rank is not None:
            tell_agent(error)
        raise
    emit.status("completed" if finished else "interrupted")
    return 0 if finished else INTERRUPTED


def train(job: dict[str, Any], emit: Callable[[dict[str, Any]], None], flag: StopFlag) -> bool:
    """Run a job; True when its result is on disk, False when it was asked to stop.

    Raises:
        ValueError: the kind or the config is wrong.
    """
    inputs = {name: _paths(value) for name, value in job["inputs"].items()}
    out = Path(job["out"])
    out.mkdir(parents=True, exist_ok=True)
    if job["kind"] == "pretrain":
        from modules.training.config import PretrainConfig
        from modules.training.pretrain import pretrain

        config = PretrainConfig.model_validate(job["config"])
        tokens, tokenizer = inputs["tokens"], inputs["tokenizer"]
        base = inputs.get("base")
        counts = pretrain(tokens, tokenizer, out, config, base=base, emit=emit, stopping=flag)
    elif job["kind"] == "finetune":
        from modules.training.finetune import finetune
        from modules.training.tuning_config import FinetuneConfig

        settings = FinetuneConfig.model_validate(job["config"])
        checkpoint, data, task = inputs["checkpoint"], inputs["data"], job["task"]
        counts = finetune(checkpoint, data, out, settings, task=task, emit=emit, stopping=flag)
    elif job["kind"] in ("measure", "profile"):
        return _look_at_steps(job, out, emit, flag)
    else:
        raise ValueError(
            f"job kind {job['kind']!r}: expected pretrain, finetune, measure or profile"
        )
    return counts is not None


def _look_at_steps(
    job: dict[str, Any], out: Path, emit: Callable[[dict[str, Any]], None], flag: StopFlag
) -> bool:
    from modules.training.config import PretrainConfig
    from modules.training.profile import profile_step
    from modules.training.throughput import measure

    config, seconds = PretrainConfig.model_validate(job["config"]), job["seconds"]
    if job["kind"] == "measure":
        found = measure(config, out, seconds=seconds, emit=emit, stopping=flag)
    else:
        trace = Path(job["trace"])
        found = profile_step(config, out, trace, seconds=seconds, emit=emit, stopping=flag)
    return found is not None


def _paths(value: str | dict[str, str]) -> Any:
    """Return the path of an input, or its paths by name."""
    if isinstance(value, dict):
        return {name: Path(path) for name, path in value.items()}
    return Path(value)


def die_with_parent(parent: int | None) -> None:
    """Have the kernel kill this process when the one that started it dies."""
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os.kill(os.getpid(), signal.SIGKILL)


# --- the parent --------------------------------------------------------------------------------

Child = subprocess.Popen[bytes] | fork_server.Forked


def launch(
    job: dict[str, Any],
    *,
    on_event: Callable[[dict[str, Any]], None],
    timeout: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> Result:
    """Train in a process of its own, in its own session; follow its events to the end.

    The child does not outlive this process. On any exception here (a cancelled flow) it gets
    SIGTERM, GRACE seconds to save, then SIGKILL for its whole group, and the exception goes on.
    After `timeout` seconds it is asked to stop the same way; the result is then "interrupted".
    """
    events = Path(job["events"])
    events.parent.mkdir(parents=True, exist_ok=True)
    write_json(beside(events, "job"), job)
    beside(events, "status").unlink(missing_ok=True)
    follow = follow_events(events)
    deadline = None if timeout is None else time.monotonic() + timeout
    child = start(events, {**child_environment(os.environ), **(environment or {})})
    try:
        while child.poll() is None:
            for event in follow():
                on_event(event)
            if deadline is not None and time.monotonic() > deadline:
                stop(child)
            try:
                child.wait(POLL)
            except subprocess.TimeoutExpired:
                continue
        for event in follow():
            on_event(event)
    except BaseException:
        stop(child)
        raise
    return result_of(events, child.wait())


def start(events: Path, environment: Mapping[str, str]) -> Child:
    """Start the training process of the job beside an event file."""
    job, log = beside(events, "job"), beside(events, "log")
    if sys.platform.startswith("linux"):
        return fork_server.start(job, log, environment)
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "modules.training.fit", str(job)],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment) | {PARENT: str(os.getpid())},
        )


def stop(child: Child) -> None:
    """Ask a training process to save and end; kill its group when it does not."""
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(GRACE)
        except subprocess.TimeoutExpired:
            assert child.pid is not None  # or it had not been started, and ended at once
            with suppress(ProcessLookupError):  # it has ended since
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def result_of(events: Path, code: int) -> Result:
    """Judge a finished process by its exit code and its status file."""
    status = read_status(events)
    step = int(status.get("step", 0))
    if code == 0 and status.get("state") == "completed":
        return Result("completed", step)
    if code == INTERRUPTED:
        return Result("interrupted", step)
    last = max((e.get("step", 0) for e in read_events(events)), default=step)
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        return Result("interrupted", last, f"the training process was ended by {name}{hint}")
    error = status.get("error") or f"exit code {code}; see {beside(events, 'log')}"
    return Result("failed", last, error)


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the child's environment: no credentials, an allocator that keeps its pages."""
    kept = {
        name: value
        for name, value in environment.items()
        if not name.startswith(SECRETS) and not name.endswith(("_TOKEN", "_SECRET", "_PASSWORD"))
    }
    root = str(Path(__file__).resolve().parents[2])
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    return {**allocator(), **THREADS, "CUBLAS_WORKSPACE_CONFIG": ":4096:8", **kept}


def allocator() -> dict[str, str]:
    """Return what makes the child's malloc keep its pages.

    glibc's own settings give tcmalloc's speed (within 4 % at two sizes; glibc as it is 1.27 to 1.35
    times slower in bfloat16, jemalloc 1.35), so tcmalloc is for other libcs. With the compiled
    kernels, which reuse their buffers, no allocator differs by more than 3 %.
    """
    library = None if keeps_pages() else ctypes.util.find_library("tcmalloc_minimal")
    return {"LD_PRELOAD": library} if library else ALLOCATOR


def keeps_pages() -> bool:
    """Tell whether this libc heeds ALLOCATOR: glibc, 2.35 or newer for huge pages."""
    name, version = platform.libc_ver()
    numbers = [int(part) for part in version.split(".")[:2] if part.isdigit()]
    return name == "glibc" and numbers >= [2, 35]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    sys.exit(main(Path(sys.argv[1])))
