"""One function over many items: one by one, on processes of this machine, or on a cluster.

A step that can be spread takes a `Spread` and does not know which it got. The items and results
cross process borders, so they are paths, names and numbers, not texts; the function is one that
can be imported (no closure), and its result must not depend on where it ran.
"""

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

Spread = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""spread(function, items) -> results in the order of the items"""

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def one_by_one(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Do the items in this process, one after the other."""
    return map(function, items)


@contextmanager
def processes(count: int = 0, method: str = "spawn") -> Iterator[Spread]:
    """Open worker processes (0: one for each CPU core) for a block; a single one is this process.

    They end with the block, and with this process however it ends. `fork` starts them in no time,
    but is safe in a process of one thread only, which no flow is.
    """
    count = count or os.cpu_count() or 1
    if count == 1:
        yield one_by_one
        return
    context = multiprocessing.get_context(method)
    pool = ProcessPoolExecutor(count, context, _end_with, (os.getpid(),))
    try:
        yield pool.map
    finally:
        # Asked to end, they might wait for ever for a lock that one held which was killed.
        for worker in list((pool._processes or {}).values()):
            worker.kill()
        pool.shutdown(cancel_futures=True)


def _end_with(parent: int) -> None:
    """Make the kernel end this worker when its parent ends, even by SIGKILL."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before we asked
        os._exit(1)
