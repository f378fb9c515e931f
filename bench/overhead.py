"""What Prefect, MLflow and the catalogue cost around a chain's work, accounted for from inside.

    python -m bench.overhead --preset sample --root /tmp/overhead

Every call into one of the three is timed, less what is called back from within it (a flow's or a
task's own code); calls in threads that run side by side are added up, so the share is an upper
bound. Calls made while a training process works (by whomever: a cell is published while the next
one trains), and the lease's heartbeat, make nobody wait: they stand apart ("beside"), and cost the
CPU seconds which the flow's process took meanwhile. With those of Prefect's server (but for what it
took while somebody waited, which is counted as such), divided by the cores, they are what the work
lost to them, at most (bench.contention measures it). Start-up (imports, Prefect's temporary server,
MLflow's empty database) and the end are told apart. Hashing and storing what was made is told by
itself: it is the work of publishing, not orchestration.
"""

import argparse
import functools
import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from flows.logs import begin
from flows.temporary_server import APP

BEGAN = time.perf_counter()
GOAL = 0.02  # issue 7: of the wall time beyond start-up
HEARTBEAT = "heartbeat"  # the name of the lease's thread
OVERHEAD = ("prefect", "mlflow", "catalogue")


class Account:
    """Seconds by category; what is called from within a call counts for its own category."""

    def __init__(self) -> None:
        self.server = server()
        self.start = self.clocks()  # what was before is start-up, and not counted
        self.seconds: dict[str, float] = defaultdict(float)
        self.worked: dict[str, float] = defaultdict(float)  # CPU seconds of this process
        self.served: dict[str, float] = defaultdict(float)  # CPU seconds of the server
        self.calls: Counter[str] = Counter()
        self._inside = threading.local()
        self._trainings = 0  # at work now
        self._lock = threading.Lock()

    @contextmanager
    def timed(self, category: str) -> Iterator[None]:
        """Charge a block to a category, and not to the one around it."""
        stack: list[dict[str, float]] = self._inside.__dict__.setdefault("stack", [])
        within: dict[str, float] = defaultdict(float)  # what the blocks within took
        stack.append(within)
        alone = threading.current_thread().name == HEARTBEAT
        if category in OVERHEAD and (alone or self._trainings):
            category = "beside"
        began = self.clocks()
        try:
            yield
        finally:
            ended = self.clocks()
            took = {name: ended[name] - max(began[name], self.start[name]) for name in ended}
            stack.pop()
            for name in took if stack else ():
                stack[-1][name] += took[name]
            with self._lock:
                self.seconds[category] += took["wall"] - within["wall"]
                self.worked[category] += took["cpu"] - within["cpu"]
                self.served[category] += took["server"] - within["server"]
                self.calls[category] += 1

    def begin(self) -> None:
        """Count from now on."""
        for numbers in (self.seconds, self.worked, self.served, self.calls):
            numbers.clear()
        self.start = self.clocks()

    def clocks(self) -> dict[str, float]:
        """Return the time, the CPU seconds of this process and those of the server, so far."""
        server = sum(self.server.cpu_times()[:2]) if self.server else 0.0
        return {"wall": time.perf_counter(), "cpu": time.process_time(), "server": server}

    def wrap_training(self, holder: Any, name: str) -> None:
        """Charge the wait for a training process to work; what is told meanwhile stands apart."""
        self.wrap(holder, name, "work")
        function: Callable[..., Any] = getattr(holder, name)

        @functools.wraps(function)
        def wrapped(*arguments: Any, **named: Any) -> Any:
            with self._lock:
                self._trainings += 1
            try:
                return function(*arguments, **named)
            finally:
                with self._lock:
                    self._trainings -= 1

        setattr(holder, name, wrapped)

    def wrap(self, holder: Any, name: str, category: str) -> None:
        """Charge every call of a function to a category."""
        function: Callable[..., Any] = getattr(holder, name)

        @functools.wraps(function)
        def wrapped(*arguments: Any, **named: Any) -> Any:
            with self.timed(category):
                return function(*arguments, **named)

        setattr(holder, name, wrapped)

    def wrap_reading(self, holder: Any, name: str) -> None:
        """Charge the blocks of a session to the catalogue."""
        function = getattr(holder, name)

        @contextmanager
        def wrapped(address: str) -> Iterator[Any]:
            with self.timed("catalogue"), function(address) as session:
                yield session

        setattr(holder, name, wrapped)


def watch(account: Account) -> None:
    """Put the clock around every door of Prefect, MLflow and the catalogue."""
    from prefect import flow_engine, task_engine
    from prefect.tasks import Task

    from flows import corpus, devices, evaluate, finetune, pretrain, progress, promote, stage
    from flows import reproduce as chain
    from modules.training import fit
    from registry import artifacts, db, manifests, projection, tracking, versions

    made = (chain.reproduce, corpus.prepare_corpus, pretrain.pretrain, finetune.finetune)
    for flow in (*made, evaluate.zero_shot, promote.promote):
        account.wrap(flow, "fn", "work")
    account.wrap(stage.Stage, "_make", "work")
    account.wrap_training(fit, "launch")
    account.wrap(flow_engine, "run_flow_sync", "prefect")
    account.wrap(task_engine, "run_task_sync", "prefect")
    account.wrap(Task, "submit", "prefect")
    account.wrap(stage, "create_markdown_artifact", "prefect")
    account.wrap(stage, "create_link_artifact", "prefect")
    account.wrap(progress, "_publish", "prefect")
    account.wrap(devices, "ask", "prefect")
    for name in ("start", "finish", "log_points", "log_artifact", "log_table"):
        account.wrap(tracking, name, "mlflow")
    account.wrap(projection, "replay_outbox", "mlflow")
    for holder in (db, stage):
        account.wrap(holder, "write", "catalogue")
        account.wrap_reading(holder, "reading")
    for holder, name in ((versions, "snapshot"), (versions, "push"), (manifests, "hash_files")):
        account.wrap(holder, name, "storing")
    account.wrap(artifacts, "checkout", "storing")


def main() -> None:
    """Run a chain in a new project and print who took how long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--root", type=Path, required=True, help="a new folder for the project")
    given = parser.parse_args()
    here = Path.cwd()
    given.root.mkdir(parents=True)
    for name in ("data", "data.dvc"):
        (given.root / name).symlink_to((here / name).resolve())
    os.environ["TEXTMILL_ROOT"] = str(given.root.resolve())
    workspace = begin()
    from registry import projection

    projection.experiment_id(workspace)  # imports mlflow and makes its database: start-up
    from flows.reproduce import reproduce
    from modules.presets import RUNS

    account, ended = Account(), dict[str, float]()
    watch(account)
    whole = reproduce.fn

    @functools.wraps(whole)
    def between(*arguments: Any, **named: Any) -> Any:
        account.begin()
        try:
            return whole(*arguments, **named)
        finally:
            ended.update(account.clocks())

    reproduce.fn = between
    reproduce(RUNS[given.preset])
    report(account, ended)


def server() -> psutil.Process | None:
    """Return Prefect's temporary server; None where there is another."""
    children = psutil.Process().children(recursive=True)
    return next((child for child in children if APP in child.cmdline()), None)


def report(account: Account, ended: dict[str, float]) -> None:
    """Print the account."""
    from flows.devices import cores  # Prefect is imported only once its server is started

    wall, served = (ended[name] - account.start[name] for name in ("wall", "server"))
    print(f"start-up {account.start['wall'] - BEGAN:.1f} s, chain {wall:.1f} s wall, ", end="")
    print(f"then {time.perf_counter() - ended['wall']:.1f} s to end the flow run")
    for name, seconds in sorted(account.seconds.items(), key=lambda x: -x[1]):
        print(f"{name:10} {seconds:8.2f} s  {seconds / wall:7.2%}  {account.calls[name]:6,} calls")
    awaited = sum(account.served[name] for name in OVERHEAD)
    print(f"Prefect's server took {served:.2f} s of CPU, {awaited:.2f} s of it while waited for")
    print(f"beside trainings, this process took {account.worked['beside']:.2f} s of CPU for it")
    waited = sum(account.seconds[name] for name in OVERHEAD) / wall
    lost = (account.worked["beside"] + served - awaited) / cores() / wall
    print(f"orchestration ({', '.join(OVERHEAD)}): {waited:.2%} of the chain waited for, ", end="")
    print(f"{lost:.2%} taken from the work: {waited + lost:.2%} (goal: {GOAL:.0%})")


if __name__ == "__main__":
    main()
