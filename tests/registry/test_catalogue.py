"""The catalogue: its tables, its engine under several processes, its queries."""

import multiprocessing
import os
import sqlite3
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from registry import catalogue, db, runs
from registry.environment import configure
from registry.tables import Base, Run, Status, now
from registry.workspace import TRACKING, TRACKING_DEFAULT, Workspace, head

FORK = multiprocessing.get_context("fork")


def start(session, **changes) -> Run:
    fields = {"stage": "s", "name": "n", "config": {}, "git_commit": "c", "data_version": "d"}
    return runs.start_run(session, **(fields | changes))


def test_migrations_give_exactly_the_tables(ws: Workspace) -> None:
    with db.engine(ws.database_url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        assert (
            connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == head()
        )


def test_migrations_can_be_undone(ws: Workspace) -> None:
    from alembic import command
    from alembic.config import Config

    from registry.workspace import MIGRATIONS

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with db.engine(ws.database_url).begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert Workspace.open(ws.root) == ws  # and come back
    with db.reading(ws.database_url) as session:
        assert runs.list_runs(session) == []


def test_a_current_catalogue_opens_without_alembic(ws: Workspace) -> None:
    code = (
        "import sys; from pathlib import Path; from registry.workspace import Workspace;"
        "Workspace.open(Path(sys.argv[1])); assert 'alembic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(ws.root)], check=True)


def test_a_newer_catalogue_is_refused(ws: Workspace) -> None:
    with sqlite3.connect(ws.state / "catalogue.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ValueError, match="newer textmill"):
        Workspace.open(ws.root)


def test_state_is_private(ws: Workspace) -> None:
    assert ws.state.stat().st_mode & 0o777 == 0o700


def test_root_is_found_upwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEXTMILL_ROOT", raising=False)
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    with pytest.raises(ValueError, match="set TEXTMILL_ROOT"):
        Workspace.open()
    (tmp_path / "data.dvc").write_text("outs: []\n")
    assert Workspace.open().root == tmp_path
    monkeypatch.setenv("TEXTMILL_ROOT", str(tmp_path / "a"))
    assert Workspace.open().root == tmp_path / "a"


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("nonsense", "not a database address"),
        ("mysql://u:hunter2@h/x", r"mysql://u:\*\*\*@h/x.*sqlite and postgresql only"),
        ("sqlite:////nowhere/at/all.db", "check that /nowhere/at exists"),
        ("sqlite://", "must be a file"),
    ],
)
def test_bad_addresses_are_named_without_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, wanted: str
) -> None:
    monkeypatch.setenv("TEXTMILL_DATABASE_URL", address)
    with pytest.raises(ValueError, match=wanted) as caught:
        Workspace.open(tmp_path)
    assert "hunter2" not in str(caught.value)


def test_one_process_may_use_two_projects(tmp_path: Path, monkeypatch) -> None:
    for name in (TRACKING, TRACKING_DEFAULT):
        monkeypatch.setenv(name, "")  # so that what configure sets is undone
        monkeypatch.delenv(name)
    for name in ("one", "two", "one"):
        (tmp_path / name).mkdir(exist_ok=True)
        ws = Workspace.open(tmp_path / name)
        configure(ws)
        assert ws.tracking_uri == os.environ[TRACKING] == f"sqlite:///{ws.state}/mlflow.db"
    monkeypatch.setenv(TRACKING, "http://chosen:5000")
    ws = Workspace.open(tmp_path / "two")
    configure(ws)
    assert ws.tracking_uri == os.environ[TRACKING] == "http://chosen:5000"


def _count_up(address: str, times: int) -> None:
    def add_one(session) -> None:
        row = session.get(Run, "counter")
        row.pid = row.pid + 1

    for _ in range(times):
        db.write(address, add_one)


def test_no_update_is_lost_between_processes(ws: Workspace) -> None:
    # SQLAlchemy's defaults lose three of four here (a SELECT runs outside the transaction).
    def add(session) -> None:
        start(session).id = "counter"
        session.flush()
        session.get(Run, "counter").pid = 0

    db.write(ws.database_url, add)
    workers = [FORK.Process(target=_count_up, args=(ws.database_url, 50)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    with db.reading(ws.database_url) as session:
        assert session.get(Run, "counter").pid == 200


def test_the_engine_is_hardened(ws: Workspace) -> None:
    with db.engine(ws.database_url).connect() as connection:
        found = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert found == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 10_000,
    }


def test_runs_whose_process_is_gone_are_interrupted(ws: Workspace) -> None:
    def add(session) -> list[str]:
        child = subprocess.Popen([sys.executable, "-c", ""])
        child.wait()
        mine, dead, reused, far, near = (start(session) for _ in range(5))
        dead.pid = child.pid
        reused.pid_started -= 1  # the pid lives, but it is another process by now
        far.host = near.host = "another-host"
        far.heartbeat = now() - timedelta(hours=1)
        return [run.id for run in (mine, dead, reused, far, near)]

    mine, dead, reused, far, near = db.write(ws.database_url, add)
    reaped = db.write(ws.database_url, lambda s: {run.id for run in runs.reap_runs(s)})
    assert reaped == {dead, reused, far}
    with db.reading(ws.database_url) as session:
        running = {run.id for run in runs.list_runs(session, status=Status.RUNNING)}
        assert running == {mine, near}
        assert session.get(Run, dead).status == "interrupted"


def test_a_completed_run_stays_completed(ws: Workspace) -> None:
    run_id = db.write(ws.database_url, lambda s: start(s).id)
    for status in (Status.COMPLETED, Status.FAILED):
        db.write(ws.database_url, lambda s, status=status: runs.finish_run(s, run_id, status))
    with db.reading(ws.database_url) as session:
        run = session.get(Run, run_id)
        assert run.status == Status.COMPLETED
        assert run.started.utcoffset() == timedelta(0)
        assert run.pid == os.getpid()


def test_ancestors_come_nearest_first(ws: Workspace, make) -> None:
    links = make(ws, kind="links", name="web")
    pages = make(ws, kind="pages", name="web", inputs={"links": links, "warc": "f" * 64})
    texts = make(ws, kind="documents", name="web", inputs={"pages": pages, "links": links})
    with db.reading(ws.database_url) as session:
        up = catalogue.ancestors(session, texts.fingerprint)
        below = catalogue.children(session, links.fingerprint, "documents")
    shown = [(e.child.kind, e.role, e.parent.kind if e.parent else e.data) for e in up]
    assert shown == [
        ("documents", "links", "links"),
        ("documents", "pages", "pages"),
        ("links", "data", "d" * 64),
        ("pages", "links", "links"),
        ("pages", "warc", "f" * 64),
    ]
    assert [x.fingerprint for x in below] == [texts.fingerprint]


def score(task: str, metric: str, value: float, **more) -> dict:
    base = {"n": 10, "low": value, "high": value, "split": "test", "task_version": 1}
    return base | {"task": task, "metric": metric, "value": value, "protocol": {}} | more


def test_leaderboard_compares_only_the_comparable(ws: Workspace, make) -> None:
    one, two = (make(ws, kind="checkpoint", config={"n": n}) for n in (1, 2))
    rows = {
        one.fingerprint: [score("lambada", "accuracy", 0.2), score("wiki", "perplexity", 30.0)],
        two.fingerprint: [score("lambada", "accuracy", 0.4), score("wiki", "perplexity", 40.0)],
    }
    for fingerprint, scores in rows.items():
        db.write(ws.database_url, lambda s, f=fingerprint, r=scores: catalogue.add_scores(s, f, r))
    other = score("lambada", "accuracy", 0.9, protocol={"stop_words": True})
    db.write(ws.database_url, lambda s: catalogue.add_scores(s, one.fingerprint, [other]))
    again = score("lambada", "accuracy", 0.25)  # the same key: replaced, not doubled
    db.write(ws.database_url, lambda s: catalogue.add_scores(s, one.fingerprint, [again]))
    with db.reading(ws.database_url) as session:
        board = catalogue.leaderboard(session)
    found = [(row.task, row.protocol, row.value) for row in board]
    assert found == [
        ("lambada", '{"stop_words":true}', 0.9),
        ("lambada", "{}", 0.4),
        ("lambada", "{}", 0.25),
        ("wiki", "{}", 30.0),
        ("wiki", "{}", 40.0),
    ]
    with pytest.raises(ValueError, match="not a number"):
        bad = [score("x", "y", float("nan"))]
        db.write(ws.database_url, lambda s: catalogue.add_scores(s, one.fingerprint, bad))
