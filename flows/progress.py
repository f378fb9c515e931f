"""Progress of long steps: a terminal bar, a progress artifact in the Prefect UI, log lines."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import TypeVar
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from modules.files import Progress as Report

logger = logging.getLogger(__name__)
T = TypeVar("T")

UI_SECONDS = 15.0  # between updates of the artifact (each is a request: 60 ms of CPU at both ends)
AWAY_SECONDS = 60.0  # without a try after Prefect did not answer
LOG_SECONDS = 15.0  # between log lines where there is no terminal to draw a bar in


class Away:
    """Remembers that Prefect did not answer, so that pages nobody can see cost no time."""

    until = 0.0  # monotonic time

    def tell(self, what: Callable[[], T]) -> T | None:
        """Tell Prefect something for its pages, if it is there: no work may fail for want of it."""
        if time.monotonic() < self.until:
            return None
        try:
            return what()
        except httpx.HTTPError as error:
            logger.warning("Prefect does not answer (%s); the work goes on", type(error).__name__)
            self.until = time.monotonic() + AWAY_SECONDS
            return None


prefect_pages = Away()


def _publish(artifact: UUID | None, percent: float, key: str, text: str) -> UUID:
    """Create the progress artifact of a step, or bring it up to date; return its id."""
    if artifact is None:
        made: UUID = create_progress_artifact(percent, key=key, description=text)  # type: ignore[assignment]
        return made
    update_progress_artifact(artifact, progress=percent, description=text)
    return artifact


@contextmanager
def reporting(key: str, what: str) -> Iterator[Report]:
    """Yield a progress function that shows a step wherever somebody may be looking.

    `key` names the Prefect artifact (lower case and dashes), `what` is the human's description. A
    step that is done within UI_SECONDS has no artifact: its task run says all.
    """
    terminal = sys.stderr.isatty()
    bar = Progress(
        TextColumn("  {task.description:<28}"),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        transient=True,
        disable=not terminal,
    )
    context = copy_context() if TaskRunContext.get() else None  # steps may report from threads
    artifact: UUID | None = None
    shown = logged = time.monotonic()

    with bar:
        row = bar.add_task(what, total=None, note="")

        def report(done: int, total: int, note: str = "") -> None:
            nonlocal artifact, shown, logged
            bar.update(row, completed=done, total=total or None, note=note)
            now, percent = time.monotonic(), 100.0 * min(done, total) / (total or 1)
            last = 0 < total <= done
            if context is not None and ((last and artifact) or now - shown >= UI_SECONDS):
                shown = now
                text = f"{what}: {note}" if note else what
                say = partial(context.copy().run, _publish, artifact, percent, key, text)
                artifact = prefect_pages.tell(say) or artifact
            if not terminal and now - logged >= LOG_SECONDS:
                logged = now
                of = f" of {total:,} ({percent:.0f} %)" if total else ""
                count = f"{done:,}{of} " if done or total else ""  # nothing begun: the note alone
                logger.info("%s: %s%s", what, count, note)

        yield report
