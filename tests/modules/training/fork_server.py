"""Fork training processes on request and signal them at a given moment (see conftest.py)."""

import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import torch

from modules.training import finetune, fit, pretrain  # noqa: F401  imported for the children
from modules.training.events import read_events


def child(path: Path) -> None:
    """Run the job as `python -m modules.training.fit` would, output kept away from the pipe."""
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
        child(path)
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
