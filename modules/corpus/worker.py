"""The killable process that reads pages, seen from outside: ask, and outlive its death.

A page that crashes, hangs or bloats the parser (Resiliparse has crashed on real pages) costs
itself only: it is tried once more in a fresh process and then given up with a reason.
"""

import json
import logging
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
OUT_OF_MEMORY = 77  # as in extract_worker.py, which this file must not import
KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "SYSTEMROOT")  # no credentials
AHEAD = 4  # requests under way; of at most some 5 kB each, so that they never fill a pipe of 64


class Worker:
    """One worker process, started on first use and again after it was killed."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = json.dumps(settings)
        self._process: subprocess.Popen[bytes] | None = None
        self._answered = 0  # by this process

    def ask(self, requests: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the answer for each page, or the reason why the process died of it twice."""
        source = iter(requests)
        waiting: deque[dict[str, Any]] = deque()
        while True:
            for request in islice(source, AHEAD - len(waiting)):
                waiting.append(request)
                self._send(request)
            if not waiting:
                return
            answer = self._answer() or self._death()
            if answer:
                request = waiting.popleft()
                if self._process is None:
                    log.warning("%s: %s", answer["reason"], request)
                yield answer
            if self._process is None:
                for request in waiting:
                    self._send(request)

    def _send(self, request: dict[str, Any]) -> None:
        """Hand a request to the process; if it is dead, _answer will tell."""
        process = self._started()
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.write(orjson.dumps(request, option=orjson.OPT_APPEND_NEWLINE))
            process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        """Return the next answer, an empty one if the process has died instead."""
        process = self._started()
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.endswith(b"\n"):
            return {}
        self._answered += 1
        answer: dict[str, Any] = orjson.loads(line)
        return answer

    def _death(self) -> dict[str, Any]:
        """Return why the process died if a page did it alone, else nothing: it is tried again."""
        was_fresh = self._answered == 0  # no earlier page has left anything behind
        reason, detail = death(self.close())
        return {"reason": reason, "detail": detail} if was_fresh else {}

    def _started(self) -> subprocess.Popen[bytes]:
        """Return the running process."""
        if self._process is None:
            environment = {k: os.environ[k] for k in KEPT_ENVIRONMENT if k in os.environ}
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.extract_worker", self._settings],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
            )
            assert self._process.stdout is not None
            if self._process.stdout.readline() != b"ready\n":
                raise RuntimeError(f"the extraction worker does not start: {self.close()}")
            self._answered = 0
        return self._process

    def close(self) -> int:
        """End the process; return its exit status, 0 if there was none."""
        process, self._process = self._process, None
        if process is None:
            return 0
        assert process.stdin is not None and process.stdout is not None
        process.stdout.close()
        with suppress(BrokenPipeError):  # it is dead already
            process.stdin.close()
        try:
            return process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def death(status: int) -> tuple[str, str]:
    """Return (reason, detail) for the exit status of a worker that died of a page."""
    if status == OUT_OF_MEMORY:
        return "extract-memory", "over the memory limit"
    if -status in (signal.SIGPROF, signal.SIGALRM):
        return "extract-timeout", "over the time limit"
    name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    return "extract-crash", name
