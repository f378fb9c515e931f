"""Child processes that are watched: started, asked whether they answer, restarted, stopped."""

import base64
import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
START_SECONDS = 180.0  # servers took up to 78 s on a loaded 2-core machine
STOP_SECONDS = 35.0  # Prefect gives a flow 30 s between SIGTERM and SIGKILL
PR_SET_PDEATHSIG = 1  # linux/prctl.h
LIBC = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
RESTARTS = 5  # within one `up`; after that something is wrong that a restart does not mend


def _stop_with_parent() -> None:
    """Have the kernel send SIGTERM when `up` dies without a word (runs in the new child)."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class Service:
    """One supervised child process in its own session."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0

    def start(self) -> None:
        """Start the child; its output is appended to the log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=os.environ | self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=_stop_with_parent,
            )

    def died(self) -> int | None:
        """Return the exit code of a child that is gone, or None."""
        return self.process.poll() if self.process else None

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Ask the child to stop, then kill what is left of its process group."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            logger.warning("%s did not stop in %.0f s: killed", self.name, seconds)
        with suppress(ProcessLookupError):  # the group is empty: all of it stopped
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def port_is_free(port: int, host: str = HOST) -> bool:
    """Tell whether a server could listen on this port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def answers(url: str, credentials: str) -> bool:
    """Tell whether a health page answers 200 to who has the credentials."""
    token = base64.b64encode(credentials.encode()).decode()
    request = urllib.request.Request(url, headers={"Authorization": f"Basic {token}"})
    try:
        with urllib.request.urlopen(request, timeout=3) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def wait_for(service: Service, url: str, credentials: str, seconds: float = START_SECONDS) -> None:
    """Wait until a service answers.

    Raises:
        RuntimeError: it ended or did not answer in time; the message names its log.
    """
    deadline = time.monotonic() + seconds
    while not answers(url, credentials):
        if service.died() is not None:
            raise RuntimeError(f"{service.name} ended while starting; see {service.log}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{service.name} did not answer in {seconds:.0f} s: {service.log}")
        time.sleep(0.5)


def supervise(services: list[Service]) -> None:
    """Watch the services for ever; start a crashed one again.

    Raises:
        RuntimeError: one crashed more than RESTARTS times.
    """
    while True:
        time.sleep(1.0)
        for service in services:
            code = service.died()
            if code is None:
                continue
            service.restarts += 1
            if service.restarts > RESTARTS:
                raise RuntimeError(f"{service.name} keeps ending (code {code}); see {service.log}")
            logger.warning("%s ended with code %s: started again", service.name, code)
            service.start()
