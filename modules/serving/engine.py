"""A model at work in a thread of its own: what is asked together is continued together.

Rows join between two tokens and leave when they are done (continuous batching, Yu et al. 2022,
"Orca", section 3.1); what is neither waiting nor running costs nothing.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from modules.model.batch import Batch, Row
from modules.model.gpt import GPT
from modules.model.lstm import LSTM

log = logging.getLogger(__name__)
T = TypeVar("T")


class Full(Exception):
    """There is no room in the queue; try again later."""


@dataclass(eq=False)
class Job(Row):
    """A row that somebody waits for."""

    fail: Callable[[Exception], None] = lambda error: None
    cancelled: bool = False

    def take(self, token: int, logits: Tensor) -> None:
        """Take the next token in, unless nobody waits for it any more."""
        if self.cancelled:
            self.done = True
        else:
            super().take(token, logits)


class Engine:
    """A model's thread, with a bounded queue of rows and calls before it."""

    def __init__(self, model: GPT | LSTM | None, *, rows: int, queue: int) -> None:
        """Start the thread.

        Args:
            model: what continues rows; None: only calls are taken.
            rows: so many are continued at once.
            queue: so many rows, and so many calls, may wait.
        """
        self.rows, self.queue = rows, queue
        self.tokens = 0  # picked so far
        self._batch = None if model is None else Batch(model)
        self._jobs: deque[Job] = deque()
        self._running: list[Job] = []
        self._calls: deque[Callable[[], None]] = deque()
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many rows and calls wait."""
        return len(self._jobs) + len(self._calls)

    @property
    def running(self) -> int:
        """How many rows are continued at present."""
        return len(self._running)

    def submit(self, jobs: list[Job]) -> None:
        """Queue rows, all or none.

        Raises:
            ValueError: more than ever fit.
            Full: no room at present.
        """
        assert self._batch is not None, "this model continues no text"
        if len(jobs) > self.queue:
            raise ValueError(f"{len(jobs)} continuations in one request; at most {self.queue}")
        with self._changed:
            self._jobs = deque(job for job in self._jobs if not job.cancelled)
            if len(self._jobs) + len(jobs) > self.queue:
                raise Full
            self._jobs.extend(jobs)
            self._changed.notify()

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Have the thread run a function between two tokens; cancel the future to have it not run.

        Raises:
            Full: no room at present.
        """
        future: Future[T] = Future()
        with self._changed:
            if len(self._calls) >= self.queue:
                raise Full
            self._calls.append(lambda: _fulfil(future, function))
            self._changed.notify()
        return future

    def close(self) -> None:
        """End the thread when all that was asked is done."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def join(self, seconds: float) -> None:
        """Wait for the end of a closed engine's thread."""
        self._thread.join(seconds)

    def _run(self) -> None:
        while self._wait():
            try:
                self._turn()
            except Exception as error:
                # A server outlives what its model cannot do; those who wait are told.
                log.exception("the model failed")
                self._fail(error)

    def _wait(self) -> bool:
        """Wait for something to do; False: closed, and nothing is left."""
        with self._changed:
            while not (self._jobs or self._calls or self._running or self._closed):
                self._changed.wait()
            return bool(self._jobs or self._calls or self._running)

    def _turn(self) -> None:
        """Run what was called, let rows join, and give every row a token."""
        with self._changed:
            calls, self._calls = list(self._calls), deque()
            new = self._admitted()
        for call in calls:
            call()
        if self._batch is None:
            return
        if new:
            self._batch.add([*new])
        elif self._running:
            self._batch.step()
        self.tokens += len(self._running)
        self._running = [job for job in self._running if not job.done]

    def _admitted(self) -> list[Job]:
        """Take rows from the queue for which there is room."""
        new: list[Job] = []
        while self._jobs and len(self._running) + len(new) < self.rows:
            job = self._jobs.popleft()
            if not job.cancelled:
                new.append(job)
        self._running += new
        return new

    def _fail(self, error: Exception) -> None:
        """Tell all rows that run, and begin with none."""
        failed, self._running = self._running, []
        assert self._batch is not None
        self._batch = Batch(self._batch.model)
        for job in failed:
            job.fail(error)


def _fulfil(future: Future[Any], function: Callable[[], Any]) -> None:
    """Run a function for a future that nobody has cancelled."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except Exception as error:  # it is the caller's
        future.set_exception(error)
