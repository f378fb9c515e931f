"""MLflow as a projection of the catalogue: told at once if it answers, else from the outbox.

Every action is a function (workspace, client, payload) -> result that may run twice with the same
end: points carry their own time, runs and versions are looked for before they are made.
"""

import logging
import shutil
import sqlite3
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from registry import db, outbox
from registry.environment import configure
from registry.files import BusyError, fsync, locked
from registry.tables import Outbox, now
from registry.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

EXPERIMENT = "textmill"
SYSTEM = "mlflow"
REPLAYED = "replayed"  # in a payload: an earlier try may have got through
PAUSE = 60.0  # seconds without a try after a server did not answer
MAX_PENDING = 20_000  # rows kept for a server that stays away
MAX_ATTEMPTS = 20  # refusals of one row before it is given up
MISTAKES = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}  # ours: no use in trying again
GONE = {"RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"}

Action = Callable[[Workspace, "MlflowClient", dict[str, Any]], str | None]

_silent_until: dict[str, float] = {}  # tracking address -> monotonic time; spares a dead server


def client(ws: Workspace) -> "MlflowClient":
    """Return a client of the workspace's MLflow, creating its database on first use."""
    configure(ws)
    if not is_server(ws.tracking_uri):
        create_store(ws)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=ws.tracking_uri, registry_uri=ws.tracking_uri)


@cache
def experiment_id(ws: Workspace) -> str:
    """Return the experiment's id, creating it on first use."""
    from mlflow.exceptions import MlflowException

    mlflow = client(ws)
    if found := mlflow.get_experiment_by_name(EXPERIMENT):
        return str(found.experiment_id)
    local = not is_server(ws.tracking_uri)
    # A server decides for itself where its artifacts lie.
    location = (ws.state / "mlflow-artifacts").as_uri() if local else None
    try:
        return str(mlflow.create_experiment(EXPERIMENT, artifact_location=location))
    except MlflowException:
        found = mlflow.get_experiment_by_name(EXPERIMENT)  # another process was faster
        if found is None:
            raise
        return str(found.experiment_id)


def tell(
    ws: Workspace,
    action: str,
    topic: str,
    payload: dict[str, Any],
) -> str | None:
    """Do one action now; if MLflow does not answer, keep it for `replay_outbox`.

    Returns the action's result, or None if it was kept.
    """
    if not _is_silent(ws):
        result, error = _try(ws, action, payload)
        if error is None:
            return result
        if error.permanent:
            return None
    _keep(ws, action, topic, payload | {REPLAYED: True})
    return None


def replay_outbox(
    ws: Workspace, *, topic: str | None = None, limit: int = 1000, seconds: float = 30.0
) -> tuple[int, int]:
    """Tell MLflow what it has not been told, oldest first; return (told, still pending).

    Stops when the server does not answer, after `limit` rows or `seconds`. Only one process
    replays at a time; another one returns at once.
    """
    told = 0
    try:
        if not _is_silent(ws):
            with locked(ws.state / "locks" / "outbox.lock", wait=topic is not None, seconds=10):
                told = _replay(ws, topic, limit, time.monotonic() + seconds)
    except BusyError as error:
        log.info("the outbox is being replayed: %s", error)
    with db.reading(ws.database_url) as session:
        return told, outbox.count_pending(session, SYSTEM)


def _replay(ws: Workspace, topic: str | None, limit: int, deadline: float) -> int:
    """Replay rows in order; a topic whose row fails waits, the others go on."""
    with db.reading(ws.database_url) as session:
        rows = outbox.pending(session, SYSTEM, topic=topic, limit=limit)
    told, waiting = 0, set[str]()
    for row in rows:
        if time.monotonic() > deadline or _is_silent(ws):
            break
        if row.topic in waiting:
            continue
        result, error = _try(ws, row.action, row.payload)
        done = error is None or error.permanent or row.attempts + 1 >= MAX_ATTEMPTS
        _mark(ws, row.id, result, "" if error is None else str(error), done)
        told += error is None
        if not done:
            waiting.add(row.topic)
    return told


def _mark(ws: Workspace, row_id: int, result: str | None, error: str, done: bool) -> None:
    """Record how one try of a row went."""

    def update(session: Any) -> None:
        row = session.get(Outbox, row_id)
        row.attempts += 1
        row.error = error
        row.payload = row.payload | {"result": result}
        row.done = now() if done else None

    db.write(ws.database_url, update)


def result_of(ws: Workspace, action: str, topic: str) -> str | None:
    """Return the result of an action that was replayed, None if it is still pending."""
    query = select(Outbox).where(Outbox.topic == topic, Outbox.action == action)
    with db.reading(ws.database_url) as session:
        row = session.scalars(query.order_by(Outbox.id)).first()
        return None if row is None or row.done is None else row.payload.get("result")


class _Failure(Exception):
    """Why an action failed, and whether another try could help."""

    def __init__(self, reason: str, *, permanent: bool) -> None:
        super().__init__(reason)
        self.permanent = permanent


def _try(ws: Workspace, action: str, payload: dict[str, Any]) -> tuple[str | None, _Failure | None]:
    """Do an action; tell a server that is away from one that refuses, and from our mistakes."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import OperationalError

    from registry.actions import ACTIONS

    try:
        return ACTIONS[action](ws, client(ws), payload), None
    except MlflowException as error:
        if error.error_code in MISTAKES:
            raise
        reason = str(error).splitlines()[0][:500]
        if error.error_code in GONE:
            log.error("mlflow refused %s for good: %s", action, reason)
            return None, _Failure(reason, permanent=True)
    except (RequestException, OperationalError, ConnectionError, TimeoutError) as error:
        reason = str(error).splitlines()[0][:500]
    log.warning("mlflow does not answer; kept for replay: %s", reason)
    _silent_until[ws.tracking_uri] = time.monotonic() + PAUSE
    return None, _Failure(reason, permanent=False)


def _is_silent(ws: Workspace) -> bool:
    """Say whether the server failed to answer within the last minute."""
    return time.monotonic() < _silent_until.get(ws.tracking_uri, 0.0)


def try_again(ws: Workspace) -> None:
    """Forget that the server did not answer: the next action tries it at once."""
    _silent_until.pop(ws.tracking_uri, None)


def _keep(ws: Workspace, action: str, topic: str, payload: dict[str, Any]) -> None:
    """Put an action into the outbox, unless that is full of what nobody fetched."""

    def add(session: Any) -> bool:
        if outbox.count_pending(session, SYSTEM) >= MAX_PENDING:
            return False
        outbox.enqueue(session, SYSTEM, action, topic, payload)
        return True

    if not db.write(ws.database_url, add):
        log.error("outbox full (%d rows): %s of %s is lost to mlflow", MAX_PENDING, action, topic)


def is_server(tracking: str) -> bool:
    """Tell the address of a tracking server from that of a database."""
    return tracking.startswith(("http://", "https://"))


@cache
def create_store(ws: Workspace) -> None:
    """Create or upgrade MLflow's own database, once, under a lock.

    Parallel first starts fail otherwise, and a kill would leave half the tables: it is made under
    another name and renamed.
    """
    import mlflow

    if not ws.tracking_uri.startswith("sqlite:///"):
        with locked(ws.state / "locks" / "mlflow.lock"):
            db.create_database(ws.tracking_uri)
            _upgrade_store(ws.tracking_uri)
        return
    path = Path(ws.tracking_uri.removeprefix("sqlite:///"))
    stamp = path.with_name(path.name + ".version")
    if path.exists() and stamp.exists() and stamp.read_text() == mlflow.__version__:
        return
    with locked(ws.state / "locks" / "mlflow.lock"):
        if not path.exists():
            _make_store(ws, path)
        elif not stamp.exists() or stamp.read_text() != mlflow.__version__:
            _upgrade_store(ws.tracking_uri)
        stamp.write_text(mlflow.__version__)


def _make_store(ws: Workspace, path: Path) -> None:
    """Make MLflow's tables in a new file and give it its name when it is whole."""
    making = path.with_name(path.name + ".making")
    making.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    _upgrade_store(f"sqlite:///{making}")
    with sqlite3.connect(making) as connection:
        connection.execute("PRAGMA journal_mode=WAL")  # readers and a writer at the same time
    connection.close()
    fsync(making)
    shutil.move(making, path)
    fsync(path.parent)


def _upgrade_store(address: str) -> None:
    """Bring an MLflow database to the installed version's tables (`mlflow db upgrade`)."""
    from mlflow.store.db.utils import (
        _initialize_tables,
        _is_empty_database,
        _upgrade_db,
        create_sqlalchemy_engine,
    )

    made = create_sqlalchemy_engine(address)
    if _is_empty_database(made):
        _initialize_tables(made)
    else:
        _upgrade_db(made)
    made.dispose()
