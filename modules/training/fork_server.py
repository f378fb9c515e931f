"""Trainings are forked from a process that has imported PyTorch and Lightning already.

The imports take 4 to 11 s of a core. A flow that trains many times (the cells of a study) pays them
once: its first training starts `python -m modules.training.fork_server`, which has one thread and
nothing but imports in it, and every training is a fork of that, in a session of its own.

The server reads requests, each a message with a socket in it, which goes back {"pid": number} and
at the end {"code": number}. It ends when its flow does, however that ends, and the kernel ends its
trainings with it. Only on Linux; elsewhere every training starts from nothing.
"""

import atexit
import gc
import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

PARENT = "TEXTMILL_PARENT"  # environment: the process id that the training does not outlive
AFTER_START = ("TEXTMILL_", "PYTEST_", "CUDA_VISIBLE_DEVICES")  # what a fork can still take over
LONGEST = 2**16  # bytes of a message


class Forked:
    """A training that a fork server was asked for; has what is used of subprocess.Popen."""

    def __init__(self, answers: socket.socket, server: "subprocess.Popen[bytes]") -> None:
        self._answers, self._server = answers, server
        self.pid: int | None = None
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, None while it runs or is about to."""
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code; the server's if that died.

        Raises:
            TimeoutExpired: it had not ended in so many seconds.
        """
        while self.returncode is None:
            self._answers.settimeout(timeout)
            try:
                message = self._answers.recv(LONGEST)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired("training", timeout or 0) from None
            answer = json.loads(message) if message else {"code": self._server.wait()}
            self.pid = answer.get("pid", self.pid)
            if "code" in answer:
                self._end(answer["code"])
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Signal it; if it is not forked yet, it will not be."""
        if self.poll() is None:
            if self.pid is None:
                self._end(-number)
            else:
                with suppress(ProcessLookupError):  # it has ended since
                    os.kill(self.pid, number)

    def _end(self, code: int) -> None:
        self.returncode = code
        self._answers.close()


class ForkServer:
    """The server of one environment, as seen from its flow."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        """Start it; what it says (nothing, if its imports succeed) is appended to the log."""
        self._trainings: list[Forked] = []
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "modules.training.fork_server"],
                stdin=theirs.fileno(),
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=dict(environment),
            )

    @property
    def alive(self) -> bool:
        """True while it can be asked."""
        return self._process.poll() is None

    @property
    def idle(self) -> bool:
        """True if nobody waits for a training of it."""
        return all(training.returncode is not None for training in self._trainings)

    def start(self, job: Path, log: Path, environment: Mapping[str, str]) -> Forked:
        """Begin a training.

        Raises:
            BrokenPipeError: the server has just died.
        """
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = {
            "job": str(job.resolve()),
            "log": str(log.resolve()),
            "cwd": str(Path.cwd()),
            "environment": {k: v for k, v in environment.items() if k.startswith(AFTER_START)},
        }
        with theirs:
            socket.send_fds(self._requests, [json.dumps(request).encode()], [theirs.fileno()])
        self._trainings = [x for x in self._trainings if x.returncode is None]
        self._trainings.append(Forked(mine, self._process))
        return self._trainings[-1]

    def close(self) -> None:
        """End it, and what it trains."""
        self._requests.close()
        self._process.kill()  # it may be importing still, and would not see that it is not wanted
        self._process.wait()


_servers: dict[frozenset[tuple[str, str]], ForkServer] = {}  # by what a process has from its start
_lock = threading.Lock()


def start(job: Path, log: Path, environment: Mapping[str, str]) -> Forked:
    """Begin the training of a job file in a fork of this flow's server; the log is appended to."""
    key = frozenset((k, v) for k, v in environment.items() if not k.startswith(AFTER_START))
    with _lock:
        for known, server in list(_servers.items()):
            if not server.alive or (known != key and server.idle):
                _servers.pop(known).close()
        if key in _servers:
            with suppress(BrokenPipeError):  # it has died since it was looked at
                return _servers[key].start(job, log, environment)
            _servers.pop(key).close()
        _servers[key] = ForkServer(environment, log)
        return _servers[key].start(job, log, environment)


@atexit.register
def close() -> None:
    """End all servers of this process."""
    while _servers:
        _servers.popitem()[1].close()


# --- the server ----------------------------------------------------------------------------------


def serve(requests: socket.socket) -> None:
    """Fork a training for each request until the flow is gone."""
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake.fileno())
    answers: dict[int, socket.socket] = {}  # process id -> whoever asked for it
    with selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if woken in ready:
                woken.recv(LONGEST)
                reap(answers)
            if requests in ready:
                message, [*sockets], _, _ = socket.recv_fds(requests, LONGEST, 1)
                if not message:
                    return
                fork(json.loads(message), socket.socket(fileno=sockets[0]), answers)


def fork(request: dict[str, Any], answer: socket.socket, answers: dict[int, socket.socket]) -> None:
    """Fork a training and tell its process id; if there is no room, that it failed."""
    server = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:  # those that run are not to die of it
        with answer, suppress(OSError):
            answer.send(json.dumps({"code": 1}).encode())
            with Path(request["log"]).open("a") as log:
                log.write(f"the training cannot be started: {error}\n")
        return
    if pid == 0:
        train(request, server)
    answers[pid] = answer
    try:
        answer.send(json.dumps({"pid": pid}).encode())
    except OSError:  # nobody wants it any more
        os.kill(pid, signal.SIGKILL)


def reap(answers: dict[int, socket.socket]) -> None:
    """Tell the exit codes of the trainings that have ended."""
    while answers:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with answers.pop(pid) as answer, suppress(OSError):
            answer.send(json.dumps({"code": os.waitstatus_to_exitcode(status)}).encode())


def train(request: dict[str, Any], server: int) -> NoReturn:
    """Become what `python -m modules.training.fit JOB` is, and end with its exit code."""
    from modules.training import fit

    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        for name in [name for name in os.environ if name.startswith(AFTER_START)]:
            del os.environ[name]
        os.environ.update(request["environment"] | {PARENT: str(server)})
        os.chdir(request["cwd"])
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        for standard, instead in enumerate((os.open(os.devnull, os.O_RDONLY), log, log)):
            os.dup2(instead, standard)
        logging.basicConfig(level=logging.INFO, format=fit.LOG_FORMAT)
        code = fit.main(Path(request["job"]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    from modules.training import finetune, pretrain  # noqa: F401  what is slow to import

    gc.freeze()  # what is there is never garbage: forks share its pages
    with socket.socket(fileno=os.dup(0)) as asked:
        serve(asked)
