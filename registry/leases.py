"""What tells a living run from a dead one, and one scheduled time from another.

A process that has runs open says every few seconds that it lives. A run whose process is gone (seen
by its pid on this host, by its silence elsewhere) is INTERRUPTED within LEASE seconds. A scheduled
time of a deployment is taken once, whatever a restarted server or a clock makes of it.
"""

import logging
import threading
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry import db, outbox, projection, runs, tracking
from registry.provenance import process_started, this_host
from registry.tables import Run, Slot
from registry.workspace import Workspace

log = logging.getLogger(__name__)

BEAT_SECONDS = 10.0  # a third of runs.STALE: two may be lost
PREFECT = "prefect"  # the outbox's system

_beating: set[str] = set()  # databases that a thread of this process tells


def keep_alive(ws: Workspace) -> None:
    """Start telling the catalogue that this process lives, once for a process and database."""
    if ws.database_url not in _beating:
        _beating.add(ws.database_url)
        threading.Thread(target=_beat, args=(ws,), name="heartbeat", daemon=True).start()


def _beat(ws: Workspace) -> None:
    waiting = threading.Event()
    while not waiting.wait(BEAT_SECONDS):
        try:
            db.write(ws.database_url, runs.heartbeat)
        except Exception as error:  # the run goes on; only its lease may run out
            log.warning("the catalogue was not told that this process lives: %s", error)


def reap(ws: Workspace) -> list[Run]:
    """Set the runs of dead processes to INTERRUPTED; return them.

    What must be told of them is in the outbox then: MLflow is told at once if it answers, Prefect
    by flows/reaper.py.
    """
    with db.reading(ws.database_url) as session:
        if not runs.interrupted_runs(session):
            return []
    dead = db.write(ws.database_url, _reap)
    for run in dead:
        log.info("run %s (%s %s) is interrupted: %s", run.id, run.stage, run.name, run.detail)
    projection.replay_outbox(ws)
    return dead


def _reap(session: Session) -> list[Run]:
    """Mark dead runs, and note what MLflow and Prefect must be told, in one transaction."""
    dead = runs.reap_runs(session)
    for run in dead:
        if run.mlflow_run_id:
            tracking.finish_later(session, run.mlflow_run_id, "KILLED")
    for flow_run, detail in {run.flow_run_id: run.detail for run in dead}.items():
        if flow_run:
            enqueue_crash(session, flow_run, detail)
    return dead


def enqueue_crash(session: Session, flow_run_id: str, message: str) -> None:
    """Note that Prefect must show a flow run as crashed."""
    outbox.enqueue(session, PREFECT, "crash", flow_run_id, {"message": message})


def is_gone(ws: Workspace, flow_run_id: str) -> bool:
    """Say whether the process on this host that made a flow run's last step is gone."""
    query = select(Run).where(Run.flow_run_id == flow_run_id).order_by(Run.started.desc()).limit(1)
    with db.reading(ws.database_url) as session:
        last = session.scalars(query).first()
    if last is None or last.host != this_host():
        return False
    return process_started(last.pid) != last.pid_started


def claim_slot(ws: Workspace, deployment: str, due: datetime, flow_run_id: str) -> str | None:
    """Take a scheduled time of a deployment, or return the flow run that has it already.

    A flow run that is tried again keeps its own.
    """

    def claim(session: Session) -> str | None:
        taken = session.get(Slot, (deployment, due))
        if taken is None:
            session.add(Slot(deployment=deployment, due=due, flow_run_id=flow_run_id))
            session.flush()
            return None
        return taken.flow_run_id if taken.flow_run_id != flow_run_id else None

    try:
        return db.write(ws.database_url, claim)
    except IntegrityError:  # another one was faster between the look and the insert
        return db.write(ws.database_url, claim)
