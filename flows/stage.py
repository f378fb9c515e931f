"""What every flow is made of: look whether it is made already, make it, publish it.

A stage is one flow run's place in the catalogue and in MLflow. Stages nest: what a parent flow
starts becomes a child run of its own. The MLflow run is opened when there is something to record,
so a chain in which everything was there already leaves one line, not a tree of empty runs.
"""

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import TerminationSignal
from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows.progress import prefect_pages, reporting
from flows.reaper import reap
from flows.settings import enter
from flows.slots import take_slot
from modules.config import Config
from modules.files import Progress
from registry import artifacts, catalogue, leases, runs, tracking
from registry.artifacts import Artifact
from registry.db import reading, write
from registry.provenance import git_commit
from registry.runs import LeaseLost
from registry.tables import Kind, Score, Status
from registry.versions import data_version
from registry.workspace import Workspace

logger = logging.getLogger(__name__)

IN_MLFLOW: dict[Status, tracking.RunStatus] = {
    Status.COMPLETED: "FINISHED",
    Status.FAILED: "FAILED",
    Status.INTERRUPTED: "KILLED",
}


class Interrupted(RuntimeError):
    """A step stopped before its end but keeps what it did; the same command continues it."""


Step = Callable[[Path, Progress], dict[str, Any]]
"""step(empty or half-done directory, progress) -> counts"""

Inputs = dict[str, Artifact | str]
"""role -> artifact, or the fingerprint of input data"""

_current: ContextVar["Stage | None"] = ContextVar("stage", default=None)


class Stage:
    """One flow (or one of its mapped parts) while it runs."""

    def __init__(self, workspace: Workspace, name: str, config: Mapping[str, Any]) -> None:
        self.workspace, self.name, self.config = workspace, name, dict(config)
        self.parent: Stage | None = _current.get()
        self.made: list[Artifact] = []
        self.reused: list[Artifact] = []
        self._lock = threading.RLock()
        self._mlflow_run: str | None = None
        self._tables: list[str] = []
        flow_run = FlowRunContext.get()
        self.flow_run_id = str(flow_run.flow_run.id) if flow_run and flow_run.flow_run else None
        self._stopping = False
        parent_id = self.parent.run_id if self.parent else None

        def start(session: Any) -> str:
            made: str = runs.start_run(
                session,
                stage=name,
                name=str(config.get("name") or name),
                config=self.config,
                git_commit=git_commit(workspace.root),
                data_version=data_version(workspace),
                parent_id=parent_id,
                flow_run_id=self.flow_run_id,
            ).id
            return made

        self.run_id: str = write(workspace.database_url, start)

    @property
    def mlflow_run(self) -> str:
        """The id of this stage's MLflow run, started on first use, nested under the parent's."""
        with self._lock:
            if self._mlflow_run is None:
                self._mlflow_run = tracking.start(
                    self.workspace,
                    f"{self.name} {self.config.get('name', '')}".strip(),
                    parent=self.parent.mlflow_run if self.parent else None,
                    tags={"textmill.run": self.run_id},
                    params=self.config,
                    flow_run_id=self.flow_run_id,
                )
                mlflow_run = self._mlflow_run
                write(
                    self.workspace.database_url,
                    lambda session: runs.note_mlflow_run(session, self.run_id, mlflow_run),
                )
                show_link(tracking.page(self.workspace, mlflow_run), f"MLflow run of {self.name}")
            return self._mlflow_run

    @property
    def stopping(self) -> bool:
        """True once this stage or one around it is on its way out: work in threads must end."""
        return self._stopping or (self.parent is not None and self.parent.stopping)

    def close(self, status: Status, error: BaseException | None = None) -> None:
        """Record how the stage ended, in the catalogue and, if a run was opened, in MLflow."""
        self._stopping = True
        detail = f"{type(error).__name__}: {error}" if error else ""
        write(
            self.workspace.database_url,
            lambda session: runs.finish_run(session, self.run_id, status, detail),
        )
        if self._mlflow_run is not None:
            tracking.finish(self.workspace, self._mlflow_run, IN_MLFLOW[status])

    def log(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record numbers on this stage's MLflow run."""
        self.log_series([(step, dict(metrics))] if metrics else [])

    def log_series(self, series: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Record numbers at several steps at once."""
        now = int(time.time() * 1000)
        points = [(k, v, step, now) for step, metrics in series for k, v in metrics.items()]
        if points:
            tracking.log_points(self.workspace, self.mlflow_run, points)

    def attach(self, picture: bytes, name: str) -> None:
        """Put a picture on this stage's MLflow run."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(picture)
            tracking.log_artifact(self.workspace, self.mlflow_run, path)

    def log_table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Put rows on this stage's MLflow run as a table its pages show; `name` ends in .json."""
        tracking.log_table(self.workspace, self.mlflow_run, rows, name, beside=self._tables)
        self._tables.append(name)

    def add_scores(self, artifact: Artifact, scores: Sequence[Mapping[str, Any]]) -> None:
        """Put an artifact's scores into the catalogue (again: no change)."""
        write(
            self.workspace.database_url,
            lambda session: catalogue.add_scores(
                session, artifact.fingerprint, scores, run_id=self.run_id
            ),
        )

    def scores_of(self, fingerprint: str) -> list[Score]:
        """Return an artifact's scores from the catalogue."""
        with reading(self.workspace.database_url) as session:
            return catalogue.leaderboard(session, fingerprint=fingerprint)

    def make(
        self,
        kind: Kind,
        name: str,
        step: Step,
        *,
        config: Config,
        inputs: Mapping[str, Artifact | str],
        version: int,
        title: str = "",
    ) -> Artifact:
        """Return the artifact of this config and these inputs, made now only if it is not there.

        Shows as one task run, with its progress, in the Prefect UI.

        Args:
            inputs: role -> artifact it is made from, or the fingerprint of input data.
            version: of the step's code; raised where its output changes.
        """
        run, arguments = self._task(kind, name, step, config, inputs, version, title)
        made: Artifact = run(*arguments)
        return made

    def submit(
        self,
        kind: Kind,
        name: str,
        step: Step,
        *,
        config: Config,
        inputs: Mapping[str, Artifact | str],
        version: int,
        title: str = "",
    ) -> "PrefectFuture[Artifact]":
        """Begin to `make` beside others, under the flow's task runner."""
        run, arguments = self._task(kind, name, step, config, inputs, version, title)
        future: PrefectFuture[Artifact] = run.submit(*arguments)
        return future

    def _task(
        self,
        kind: Kind,
        name: str,
        step: Step,
        config: Config,
        inputs: Mapping[str, Artifact | str],
        version: int,
        title: str,
    ) -> tuple[Any, tuple[Any, ...]]:
        title = title or f"{kind.value} {name}"
        run = task(name=kind.value, task_run_name=title, cache_policy=NO_CACHE)(self._make)
        return run, (kind, name, step, config, dict(inputs), version, title)

    def _make(
        self,
        kind: Kind,
        name: str,
        step: Step,
        config: Config,
        inputs: dict[str, Artifact | str],
        version: int,
        title: str,
    ) -> Artifact:
        values = config.model_dump(mode="json")
        parts = {role: x if isinstance(x, str) else x.fingerprint for role, x in inputs.items()}
        fingerprint = artifacts.fingerprint(kind, config.decisive(), parts, version)
        found = artifacts.find(self.workspace, kind, fingerprint)
        if found is None:
            with artifacts.workdir(self.workspace, kind, name, fingerprint, wait=True) as work:
                found = artifacts.find(self.workspace, kind, fingerprint)  # made while we waited
                if found is None:
                    return self._compute(kind, name, step, fingerprint, values, inputs, work, title)
        logger.info("%s: there already (%s), not made again", title, fingerprint[:12])
        self.reused.append(found)
        return found

    def _compute(
        self,
        kind: Kind,
        name: str,
        step: Step,
        fingerprint: str,
        values: dict[str, Any],
        inputs: dict[str, Artifact | str],
        work: Path,
        title: str,
    ) -> Artifact:
        logger.info("%s: making it", title)
        began = time.monotonic()
        with reporting(f"progress-{kind.value}", title) as progress:
            counts = step(work, progress)
        made = artifacts.publish(
            self.workspace,
            work,
            kind=kind,
            name=name,
            fingerprint=fingerprint,
            config=values,
            inputs=inputs,
            counts=counts,
            run_id=self.run_id,
        )
        seconds = time.monotonic() - began
        logger.info("%s: made in %.1f s (%s)", title, seconds, fingerprint[:12])
        self.made.append(made)
        numbers = {k: float(v) for k, v in counts.items() if isinstance(v, int | float)}
        self.log({f"{kind.value}/{name}": number for name, number in numbers.items()})
        return made


@contextmanager
def stage(name: str, config: Mapping[str, Any]) -> Iterator[Stage]:
    """Run a block as a stage; how it ended is recorded whatever happens.

    Raises:
        Abort: a scheduled run whose time another one has taken; nothing was done.
        LeaseLost: the process was taken for dead; nothing more of it is kept.
    """
    workspace = enter()
    with ExitStack() as until_end:
        if _current.get() is None:
            take_slot(workspace)
            reap(workspace)
            leases.keep_alive(workspace)
            # Flows within run in this process: one heartbeat tells of all. Each of its threads
            # makes its flow wait for a second at the end.
            until_end.enter_context(temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}))
        running = Stage(workspace, name, config)
        token = _current.set(running)
        try:
            yield running
        except (KeyboardInterrupt, TerminationSignal, Interrupted, LeaseLost) as error:
            running.close(Status.INTERRUPTED, error)
            raise
        except BaseException as error:
            running.close(Status.FAILED, error)
            raise
        else:
            running.close(Status.COMPLETED)
        finally:
            _current.reset(token)
    if running.parent:
        running.parent.made += running.made
        running.parent.reused += running.reused


def show_link(address: str | None, description: str) -> None:
    """Link a page from the flow run in the Prefect UI; nothing where there is no such page."""
    if address and FlowRunContext.get():
        link = partial(create_link_artifact, address, key="mlflow-run", description=description)
        prefect_pages.tell(link)


def show(key: str, markdown: str, description: str) -> None:
    """Put a page of Markdown into the Prefect UI, where a flow or task runs."""
    if FlowRunContext.get() or TaskRunContext.get():
        page = partial(create_markdown_artifact, markdown, key=key, description=description)
        prefect_pages.tell(page)
