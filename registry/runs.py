"""Runs in the catalogue: who began a step, whether it lives, how it ended; session first."""

import os
import secrets
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from registry import tables
from registry.provenance import process_started, this_host
from registry.tables import Run, Status, now

STALE = timedelta(seconds=30)  # without a heartbeat on another host, a run counts as dead


class LeaseLost(RuntimeError):
    """A run was taken for dead: another one may have its place, and nothing more of it counts."""


def start_run(
    session: Session,
    *,
    stage: str,
    name: str,
    config: dict[str, Any],
    git_commit: str,
    data_version: str,
    parent_id: str | None = None,
    flow_run_id: str | None = None,
    mlflow_run_id: str | None = None,
) -> Run:
    """Record that this process begins a step.

    Raises:
        LeaseLost: the run above it was taken for dead.
    """
    if parent_id is not None:
        hold(session, parent_id)
    run = Run(
        id=secrets.token_hex(6),
        stage=stage,
        name=name,
        status=Status.RUNNING,
        config=config,
        parent_id=parent_id,
        flow_run_id=flow_run_id,
        mlflow_run_id=mlflow_run_id,
        git_commit=git_commit,
        data_version=data_version,
        host=this_host(),
        pid=os.getpid(),
        pid_started=process_started(os.getpid()) or 0,
    )
    session.add(run)
    session.flush()
    return run


def note_mlflow_run(session: Session, run_id: str, mlflow_run_id: str) -> None:
    """Record which MLflow run shows a run."""
    _run(session, run_id).mlflow_run_id = mlflow_run_id


def heartbeat(session: Session) -> None:
    """Say that this process lives, for hosts that cannot see it; by the database's clock."""
    ours = {"host": this_host(), "pid": os.getpid(), "status": Status.RUNNING}
    session.execute(update(Run).filter_by(**ours).values(heartbeat=clock(session)))


def clock(session: Session) -> datetime:
    """Return the time that all hosts agree on: PostgreSQL's, or this host's with SQLite."""
    if session.get_bind().dialect.name == "postgresql":
        told: datetime = session.scalars(select(func.clock_timestamp())).one()
        return told
    return now()


def hold(session: Session, run_id: str | None) -> None:
    """Make sure that a run still counts, in the transaction that writes on its behalf.

    Its id is the fencing token: no two tries share one, and INTERRUPTED is never taken back. The
    transaction sees either the reaper's mark or comes before it (SQLite's one writer, PostgreSQL's
    SERIALIZABLE).

    Raises:
        LeaseLost: it was taken for dead.
    """
    run = _run(session, run_id) if run_id is not None else None
    if run is not None and run.status == Status.INTERRUPTED:
        raise LeaseLost(
            f"run {run.id} ({run.stage} {run.name}) was interrupted at "
            f"{run.ended:%Y-%m-%d %H:%M:%S} UTC, after {STALE.seconds} s without a sign of life or "
            "by a signal: nothing more of it is kept; run the same command again, what is made is "
            "used again"
        )


def finish_run(session: Session, run_id: str, status: Status, detail: str = "") -> None:
    """Record how a run ended; the first end is final, whatever comes after.

    Raises:
        LeaseLost: it would be completed, but was taken for dead.
    """
    if status == Status.COMPLETED:
        hold(session, run_id)
    run = _run(session, run_id)
    if run.status == Status.RUNNING:
        run.status, run.ended, run.detail = status, now(), detail


def list_runs(
    session: Session, *, status: Status | None = None, stage: str | None = None, limit: int = 100
) -> list[Run]:
    """Return runs, newest first."""
    query = select(Run).order_by(Run.started.desc(), Run.id).limit(limit)
    if status is not None:
        query = query.where(Run.status == status)
    if stage is not None:
        query = query.where(Run.stage == stage)
    return list(session.scalars(query))


def made_by(session: Session, run_id: str) -> list[str]:
    """Return the fingerprints of what a run and all runs below it made, oldest first."""
    found, frontier = [run_id], [run_id]
    while frontier:
        frontier = list(session.scalars(select(Run.id).where(Run.parent_id.in_(frontier))))
        found += frontier
    made = select(tables.Artifact.fingerprint).where(tables.Artifact.run_id.in_(found))
    return list(session.scalars(made.order_by(tables.Artifact.id)))


def interrupted_runs(session: Session, stale: timedelta = STALE) -> list[Run]:
    """Return the runs that say RUNNING though their process is gone."""
    running = session.scalars(select(Run).where(Run.status == Status.RUNNING))
    before = clock(session) - stale
    return [run for run in running if _is_dead(run, before)]


def is_running(session: Session, flow_run_id: str) -> bool:
    """Tell whether a flow run has a step that runs."""
    query = select(Run.id).where(Run.flow_run_id == flow_run_id, Run.status == Status.RUNNING)
    return session.scalars(query.limit(1)).first() is not None


def reap_runs(session: Session, stale: timedelta = STALE) -> list[Run]:
    """Set the runs whose process is gone to INTERRUPTED, and return them."""
    dead = interrupted_runs(session, stale)
    for run in dead:
        run.status, run.ended = Status.INTERRUPTED, now()
        run.detail = f"process {run.pid} on {run.host} is gone; run the same step again to go on"
    return dead


def _run(session: Session, run_id: str) -> Run:
    """Return a run that must be there."""
    run = session.get(Run, run_id)
    if run is None:
        raise ValueError(f"no run {run_id!r} in the catalogue")
    return run


def _is_dead(run: Run, before: datetime) -> bool:
    """Say whether a running run's process is gone: by pid here, by heartbeat elsewhere."""
    if run.host == this_host():
        return process_started(run.pid) != run.pid_started
    return run.heartbeat < before
