"""Fork training processes on request and signal them at a given moment (see conftest.py)."""

import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import safetensors.torch
import torch

from modules.training import finetune, fit, loop, pretrain, state  # noqa: F401  for the children
from modules.training.events import read_events

CALLS = (  # what a save does to the disk
    (os, "fsync"),
    (Path, "mkdir"),
    (Path, "rename"),
    (Path, "write_text"),
    (shutil, "rmtree"),
    (safetensors.torch, "save_file"),
)


def aim(number: int) -> None:
    """End this process with SIGKILL at a call of its saves, counted from the first save on."""
    inside, left = threading.local(), [number]

    def save(*args, real=state.save, **kwargs):
        inside.save = True
        try:
            return real(*args, **kwargs)
        finally:
            inside.save = False

    def deadly(real):
        def call(*args, **kwargs):
            if getattr(inside, "save", False):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    state.save = save
    for owner, name in CALLS:
        setattr(owner, name, deadly(getattr(owner, name)))


def child(path: Path, request: dict) -> None:
    """Run the job as `python -m modules.training.fit` would, output kept away from the pipe."""
    if "aim" in request:
        aim(request["aim"])
    if request.get("keep_state"):
        loop._remove = lambda folder: None
    log = os.open(path.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        os._exit(fit.main(path))
    except BaseException as error:
        sys.stderr.write(f"{error!r}\n")
        os._exit(1)


def serve(request: dict) -> dict:
    """Fork, wait for the moment, signal, collect."""
    path = Path(request["path"])
    events = Path(json.loads(path.read_text())["events"])
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        child(path, request)
    sent, status = False, 0
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        seconds = time.monotonic() - start
        due = seconds >= request.get("after", 1e9)
        if "at" in request:
            due = any(e["step"] >= request["at"] for e in read_events(events))
        if due and not sent:
            os.kill(pid, request["signal"])
            sent = True
        if seconds > 60:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    code = os.waitstatus_to_exitcode(status)
    return {"code": code, "sent": sent, "seconds": time.monotonic() - start}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), flush=True)  # noqa: T201  its protocol
