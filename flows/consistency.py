"""Whether the catalogue, MLflow, Prefect and the storage agree, and how they are made to.

The catalogue decides (DESIGN.md, decision 1). A check is a function that looks, and beside it in
CHECKS stands the one that mends; `textmill doctor --fix` looks again after it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from flows import reaper
from flows.orphans import orphans, stop_orphans
from flows.settings import running_services
from registry import (
    catalogue,
    db,
    drift,
    exchange,
    leases,
    outbox,
    projection,
    runs,
    storage,
    tracking,
)
from registry.workspace import Workspace


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    good: bool
    found: str
    mend: str = ""


FIX = "textmill doctor --fix"
NO_WORKER = "textmill up (pool local), or textmill worker --pool NAME; is the pool paused or full?"


def examine_state(workspace: Workspace, *, fix: bool = False) -> Iterator[Check]:
    """Look whether all stores agree; with `fix`, mend what can be mended."""
    for look, mend in CHECKS:
        check = look(workspace)
        if fix and mend and not check.good:
            mend(workspace)
            check = look(workspace)
        yield check


def catalogue_check(workspace: Workspace) -> Check:
    """Is the catalogue readable?"""
    with db.reading(workspace.database_url) as session:
        total = catalogue.count_artifacts(session)
    return Check("catalogue", True, f"{total} artifacts in {db.redacted(workspace.database_url)}")


def storage_check(workspace: Workspace) -> Check:
    """Can the storage remote be read and written?"""
    try:
        return Check("storage", True, f"{storage.probe(workspace)} is readable and writable")
    except storage.StorageError as error:
        return Check("storage", False, str(error), "mend the remote `storage` in .dvc/config")


def published_check(workspace: Workspace) -> Check:
    """Is every published artifact at the storage?"""
    try:
        lacking = storage.missing(workspace)
    except Exception as error:  # every kind of remote has exceptions of its own
        return Check("published", False, f"the storage cannot be listed: {error}")
    some = ", ".join(fingerprint[:12] for fingerprint in list(lacking)[:3])
    found = f"{len(lacking)} artifacts lack objects at the storage{': ' if some else ''}{some}"
    mend = f"{FIX} (where a sound copy is here), or bring them back from a backup"
    return Check("published", not lacking, found, mend if lacking else "")


def record_check(workspace: Workspace) -> Check:
    """Could another machine pull everything? (`textmill push --verify` hashes the bytes, too.)"""
    try:
        lacking = exchange.without_record(workspace)
    except (ValueError, OSError) as error:
        return Check("records", False, str(error), "dvc remote modify --local storage ...")
    some = f", e.g. {lacking[0]}" if lacking else ""
    found = f"{len(lacking)} artifacts cannot be pulled by name{some}"
    return Check("records", not lacking, found, "textmill push" if lacking else "")


def send_missing(workspace: Workspace) -> None:
    """Push again what the storage lacks."""
    for _ in exchange.push(workspace, list(storage.missing(workspace))):
        pass


def outbox_check(workspace: Workspace) -> Check:
    """Does MLflow know all that it should?"""
    with db.reading(workspace.database_url) as session:
        waiting = outbox.count_pending(session, projection.SYSTEM)
    mend = f"the next run sends them once the tracking server answers; or {FIX}" if waiting else ""
    return Check("MLflow outbox", waiting == 0, f"{waiting} messages waiting", mend)


def send_outbox(workspace: Workspace) -> None:
    """Tell MLflow what waits."""
    projection.try_again(workspace)
    projection.replay_outbox(workspace)


def alias_check(workspace: Workspace) -> Check:
    """Do the aliases in MLflow stand where ours do?"""
    return _asked("aliases", lambda: [str(row) for row in drift.drift(workspace)])


def mend_aliases(workspace: Workspace) -> None:
    """Put MLflow's aliases where ours are."""
    drift.mend(workspace, drift.drift(workspace))


def dead_check(workspace: Workspace) -> Check:
    """Does a run say that it runs though its process is gone?"""
    with db.reading(workspace.database_url) as session:
        dead = runs.interrupted_runs(session)
    mend = f"run the same command again to continue; {FIX} marks them as interrupted"
    found = f"{len(dead)} runs died without a word"
    return Check("dead runs", not dead, found, mend if dead else "")


def open_check(workspace: Workspace) -> Check:
    """Does MLflow show runs as running that have ended?"""
    return _asked("MLflow runs", lambda: [f"{run} is open" for run in drift.open_runs(workspace)])


def close_runs(workspace: Workspace) -> None:
    """End the MLflow runs whose run has ended here."""
    for run_id, status in drift.open_runs(workspace).items():
        tracking.finish(workspace, run_id, status)


def prefect_check(workspace: Workspace) -> Check:
    """Does Prefect show runs as running whose process is gone?"""
    if not running_services(workspace):
        return Check("Prefect runs", True, "not asked: no server is running")
    from flows import slots

    return _asked("Prefect runs", lambda: [f"{run.name} is gone" for run in slots.gone(workspace)])


def late_check(workspace: Workspace) -> Check:
    """Does a run wait although it was due?"""
    services = running_services(workspace)
    if not services:
        return Check("late runs", True, "not asked: no server is running")

    def ask() -> list[str]:
        asked = {"flow_runs": {"state": {"name": {"any_": ["Late"]}}}}
        with reaper.prefect_client(workspace, services) as client:
            found = client.post("flow_runs/filter", json=asked).raise_for_status().json()
        return [f"{run['name']} waits for a worker of {run['work_pool_name']}" for run in found]

    return _asked("late runs", ask, fine="none", mend=NO_WORKER)


def crash_gone(workspace: Workspace) -> None:
    """Show Prefect's runs of dead processes as crashed."""
    from flows import slots

    for run in slots.gone(workspace):
        crash = partial(
            leases.enqueue_crash, flow_run_id=str(run.id), message="its process is gone"
        )
        db.write(workspace.database_url, crash)
    reaper.tell_prefect(workspace)


def orphan_check(workspace: Workspace) -> Check:
    """Is a temporary server left by a run that was killed?"""
    left = len(orphans(workspace))
    mend = f"{FIX}, or the next run, stops them" if left else ""
    return Check("orphans", left == 0, f"{left} temporary servers of dead runs", mend)


def _asked(
    name: str, ask: Callable[[], list[str]], fine: str = "as in the catalogue", mend: str = FIX
) -> Check:
    """Ask another system for what is wrong there."""
    try:
        wrong = ask()
    except Exception as error:  # MLflow's, requests' or Prefect's: it does not answer
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        return Check(name, False, f"does not answer: {reason}", "textmill up")
    found = "; ".join(wrong[:3]) if wrong else fine
    return Check(name, not wrong, found, mend if wrong else "")


Look = Callable[[Workspace], Check]
Mend = Callable[[Workspace], object]

CHECKS: tuple[tuple[Look, Mend | None], ...] = (
    (catalogue_check, None),
    (storage_check, None),
    (published_check, send_missing),
    (record_check, None),
    (dead_check, leases.reap),
    (outbox_check, send_outbox),  # after those who put messages into it
    (alias_check, mend_aliases),
    (open_check, close_runs),
    (prefect_check, crash_gone),
    (late_check, None),
    (orphan_check, stop_orphans),
)
