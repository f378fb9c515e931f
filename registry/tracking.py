"""MLflow runs: start, log, finish. Nothing here waits long for a server, or fails with it.

What MLflow did not take is kept in the outbox (`replay_outbox`). A run that was started while
MLflow was away has an id of ours ("local-..."), which every function here takes as well.
"""

import json
import math
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from sqlalchemy.orm import Session

from registry import outbox
from registry.actions import LOCAL
from registry.projection import (
    REPLAYED,
    SYSTEM,
    experiment_id,
    is_server,
    replay_outbox,
    tell,
    try_again,
)
from registry.provenance import git_commit
from registry.versions import data_version
from registry.workspace import Workspace

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
Point = tuple[str, float, int, int]
"""A metric: name, value, step, time in ms since 1970."""

MAX_PARAM = 6000  # characters; MLflow's limit
MAX_SPOOLED = 64 * 2**20  # bytes; larger files belong into an artifact


class Figure(Protocol):
    """What a matplotlib figure can do."""

    def savefig(self, path: Any, /) -> None:
        """Write the picture to a file."""


def start(
    ws: Workspace,
    name: str,
    *,
    parent: str | None = None,
    tags: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
    flow_run_id: str | None = None,
) -> str:
    """Start a run and return its id; nested params become dotted names."""
    key = LOCAL + secrets.token_hex(8)
    stamped = {
        "textmill.data_version": data_version(ws),
        "textmill.git_commit": git_commit(ws.root),
        "mlflow.source.name": "textmill",
    }
    if flow_run_id:
        stamped["prefect.flow_run_id"] = flow_run_id
    payload = {
        "key": key,
        "name": name,
        "parent": parent,
        "tags": stamped | dict(tags or {}),
        "params": {k: _text(v)[:MAX_PARAM] for k, v in flatten(params or {}).items()},
        "time": _milliseconds(),
    }
    return tell(ws, "start", key, payload) or key


def resume(ws: Workspace, run_id: str) -> None:
    """Set a run that goes on after an interruption back to RUNNING."""
    tell(ws, "resume", run_id, {"run": run_id})


def log_metrics(ws: Workspace, run_id: str, metrics: Mapping[str, float], *, step: int = 0) -> None:
    """Log numbers of one step; a "/" in a name makes a group of charts."""
    now = _milliseconds()
    log_points(ws, run_id, [(name, value, step, now) for name, value in metrics.items()])


def log_points(ws: Workspace, run_id: str, points: Iterable[Point]) -> None:
    """Log many numbers in few requests."""
    rows = [
        [name, value if math.isfinite(value) else str(value), step, when]
        for name, value, step, when in points
    ]
    if rows:
        tell(ws, "metrics", run_id, {"run": run_id, "points": rows})


def set_tags(ws: Workspace, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run."""
    tell(ws, "tags", run_id, {"run": run_id, "tags": dict(tags)})


def log_artifact(ws: Workspace, run_id: str, path: Path, *, folder: str | None = None) -> None:
    """Attach a small file (a report, a sample) to a run.

    Raises:
        ValueError: the file is larger than 64 MiB.
    """
    if (size := path.stat().st_size) > MAX_SPOOLED:
        raise ValueError(f"{path} has {size} bytes, too many for a run's page: publish it instead")
    spool = ws.state / "spool"
    spool.mkdir(exist_ok=True)
    kept = Path(tempfile.mkdtemp(dir=spool)) / path.name
    shutil.copyfile(path, kept)
    payload = {"run": run_id, "file": str(kept), "folder": folder}
    tell(ws, "artifact", run_id, payload)


def log_text(ws: Workspace, run_id: str, text: str, name: str) -> None:
    """Attach a text under a file name (may hold folders) to a run."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / Path(name).name
        file.write_text(text)
        log_artifact(ws, run_id, file, folder=_folder(name))


def log_table(
    ws: Workspace,
    run_id: str,
    rows: Sequence[Mapping[str, Any]],
    name: str,
    *,
    beside: Sequence[str] = (),
) -> None:
    """Attach rows as a table that MLflow's pages show; `name` ends in .json.

    Args:
        beside: the tables that the run has already, or its pages show this one alone.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = {"columns": columns, "data": [[row.get(c) for c in columns] for row in rows]}
    log_text(ws, run_id, json.dumps(table, ensure_ascii=False), name)
    tables = json.dumps([{"path": path, "type": "table"} for path in (*beside, name)])
    set_tags(ws, run_id, {"mlflow.loggedArtifacts": tables})


def log_figure(ws: Workspace, run_id: str, figure: Figure, name: str) -> None:
    """Attach a matplotlib figure under a file name (.png, .svg) to a run."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / Path(name).name
        figure.savefig(file)
        log_artifact(ws, run_id, file, folder=_folder(name))


def finish(ws: Workspace, run_id: str, status: RunStatus = "FINISHED") -> None:
    """Set how a run ended."""
    tell(ws, "finish", run_id, {"run": run_id, "status": status, "time": _milliseconds()})


def finish_later(session: Session, run_id: str, status: RunStatus) -> None:
    """Note in a transaction that MLflow must be told how a run ended."""
    payload = {"run": run_id, "status": status, "time": _milliseconds(), REPLAYED: True}
    outbox.enqueue(session, SYSTEM, "finish", run_id, payload)


def page(ws: Workspace, run_id: str) -> str | None:
    """Return the address of a run's page; None where no tracking server is told of it."""
    if run_id.startswith(LOCAL) or not is_server(ws.tracking_uri):
        return None
    return f"{ws.tracking_uri}/#/experiments/{experiment_id(ws)}/runs/{run_id}"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _text(value: Any) -> str:
    """Return a param's text; strings stay as they are."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _folder(name: str) -> str | None:
    """Return the folder part of a name, None for none."""
    folder = Path(name).parent.as_posix()
    return None if folder == "." else folder


def _milliseconds() -> int:
    """Return the time in MLflow's unit."""
    return time.time_ns() // 1_000_000


__all__ = [
    "finish",
    "flatten",
    "log_artifact",
    "log_figure",
    "log_metrics",
    "log_points",
    "log_table",
    "log_text",
    "replay_outbox",
    "resume",
    "set_tags",
    "start",
    "try_again",
]
