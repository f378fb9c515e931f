"""Checkpoints written behind the steps: copied at a step boundary, written while training goes on.

One write is in flight at most. What goes wrong in it is raised at the next step boundary, and
nothing that ends a run (its last step, an error, a request to stop) leaves before it has ended.
"""

import logging
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from modules.training import state as states
from modules.training.state import State

log = logging.getLogger(__name__)


class Writer:
    """Writes training states into a folder; leave its `with` block to wait for the last one."""

    def __init__(self, folder: Path, *, keep: int, background: bool) -> None:
        """Take the folder, how many checkpoints stay, and whether to write behind the steps."""
        self.folder, self.keep, self.background = folder, keep, background
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._flying: Future[Any] | None = None

    def save(self, step: int, state: State, *, spare: Collection[int] = ()) -> None:
        """Write the checkpoint of a step, or start to; the one before has been written then.

        Raises:
            OSError, FloatingPointError, DamagedState: of this write or of the one before.
        """
        self.wait()
        if not self.background:
            states.save(self.folder, step, state, keep=self.keep, spare=spare)
            return
        copy = states.copied(state)
        self._flying = self._pool.submit(
            states.save, self.folder, step, copy, keep=self.keep, spare=spare
        )

    def check(self) -> None:
        """Raise the error of a write that has failed; do not wait for one that goes on."""
        if self._flying and self._flying.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the write in flight, and raise its error."""
        flying, self._flying = self._flying, None
        if flying:
            flying.result()

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for the write in flight; the error that ends the run goes before the write's."""
        try:
            self.wait()
        except Exception as late:
            if error is None:
                raise
            log.error("and the last checkpoint was not written: %s", late)
        finally:
            self._pool.shutdown()
