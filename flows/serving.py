"""Serving models of the registry: each is loaded, followed when its alias moves, and guarded."""

import logging
import signal
import threading
import time
from typing import Any

from registry import artifacts
from registry.access import Guard, credentials
from registry.workspace import Workspace

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 60.0  # until one that could not be loaded is tried again


def load(ws: Workspace, reference: str, limits: Any) -> Any:
    """Bring a model's bytes here, verified, and open it.

    Raises:
        ValueError, FileNotFoundError: there is no such model, or it cannot be opened.
    """
    from modules.serving import slots

    found = artifacts.look_up(ws, reference)
    folder = artifacts.checkout(ws, found.reference).path  # the alias may have moved by now
    return slots.load(folder, found.fingerprint, limits)


class Follower:
    """Looks again and again what each name means now."""

    def __init__(self, ws: Workspace, slots: list[Any], limits: Any, seconds: float) -> None:
        self.ws, self.slots, self.limits, self.seconds = ws, slots, limits, seconds
        self.stop = threading.Event()
        self._failed: dict[str, tuple[str, float]] = {}  # name -> fingerprint, when
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

    def start(self) -> None:
        """Look every few seconds from now on."""
        self._thread.start()

    def _run(self) -> None:
        while not self.stop.wait(self.seconds):
            for slot in self.slots:
                self.look(slot)

    def look(self, slot: Any) -> None:
        """Load what a name means now beside what it meant, then swap; a failure changes nothing."""
        wanted = ""
        try:
            wanted = artifacts.look_up(self.ws, slot.name).fingerprint
            if wanted != slot.current.fingerprint and not self._failed_lately(slot.name, wanted):
                slot.replace(load(self.ws, slot.name, self.limits))
                logger.info("%s is %s now", slot.name, wanted[:12])
        except Exception as error:  # whatever it is, the old one goes on serving
            logger.warning("%s: %s; what was loaded before goes on", slot.name, error)
            slot.error = f"{type(error).__name__}: {error}"
            self._failed[slot.name] = (wanted, time.monotonic())
        else:
            if wanted == slot.current.fingerprint:
                slot.error = ""

    def _failed_lately(self, name: str, fingerprint: str) -> bool:
        before, when = self._failed.get(name, ("", 0.0))
        return before == fingerprint and time.monotonic() - when < AGAIN_SECONDS


def guarded(ws: Workspace, app: Any, hosts: list[str]) -> Guard:
    """Put credentials, Host and Origin before an application."""
    from modules.serving.app import OPEN

    return Guard(
        app,
        credentials(ws),
        hosts,
        is_open=lambda scope: scope["type"] == "http" and scope["path"] in OPEN,
        prompts=False,
        bearer=True,
    )


def run(app: Any, host: str, port: int, stop_seconds: int) -> None:
    """Serve until SIGTERM or Ctrl-C; what runs then has so many seconds to finish."""
    import uvicorn

    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=stop_seconds,
        limit_concurrency=1000,
        ws="none",
    )
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises the signal again at its end
        signal.signal(number, lambda signum, frame: None)
    uvicorn.Server(config).run()
