"""R6 and R7: many promoters, half of them killed; updates under kills of clients and of the server.

Sizes are those of the issue; TEXTMILL_PROOF=0.1 makes a tenth of them.
"""

import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from registry import db, models, projection
from registry.tables import Alias, AliasMove, Outbox
from registry.workspace import Workspace
from tests.registry.postgres import BIN, Postgres, postgres

FORK = multiprocessing.get_context("fork")
SCALE = float(os.environ.get("TEXTMILL_PROOF", "1"))
RACERS, ROUNDS = max(4, int(50 * SCALE)), 20
WRITERS, UPDATES, KILLS, CRASHES = 6, max(20, int(500 * SCALE)), 3, max(2, int(10 * SCALE))
NAME = "textmill-sample"
COUNTER = "counter"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(params=["sqlite", "postgresql"])
def server(request, monkeypatch) -> Iterator[Postgres | None]:
    """No server for SQLite; else a PostgreSQL of our own, which the workspace will use."""
    monkeypatch.delenv("TEXTMILL_DATABASE_URL", raising=False)
    if request.param == "sqlite":
        yield None
        return
    if not BIN.is_dir():
        pytest.skip(f"PostgreSQL 15 is not at {BIN}")
    with postgres() as made:
        monkeypatch.setenv("TEXTMILL_DATABASE_URL", made.url)
        yield made


@pytest.fixture
def shared(server, tmp_path: Path, monkeypatch) -> Workspace:
    """A project whose MLflow is away."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made = Workspace.open(tmp_path)
    monkeypatch.setitem(projection._silent_until, made.tracking_uri, float("inf"))
    return made


class Acks:
    """A file that survives its writers: one line per answer, appended in one call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, *words: object) -> None:
        line = json.dumps(words).encode() + b"\n"
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, line)
        os.close(fd)

    def all(self) -> list[list]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]


def run(workers: dict[str, Callable[[], None]]) -> dict[str, BaseProcess]:
    started = {key: FORK.Process(target=work) for key, work in workers.items()}
    for process in started.values():
        process.start()
    return started


def race(ws: Workspace, acks: Acks, me: str, rounds: int) -> None:
    """Promote another version than the holder, or roll back, against what was just seen."""
    dice = random.Random(me)
    for number in range(rounds):
        token = f"{me}:{number}"
        try:
            if dice.random() < 0.3:
                models.rollback(ws, NAME, reason=token)
            else:
                holder = models.holder(ws, NAME)
                version = dice.choice([v for v in range(1, 6) if v != holder])
                models.promote(ws, NAME, version, expected=holder, reason=token)
            acks.add("won", token)
        except models.Conflict as error:
            assert "nothing was changed" in str(error)
            acks.add("conflict", token)
        except ValueError as error:
            acks.add(
                "refused" if "roll back" in str(error) or "go back" in str(error) else "error",
                str(error),
            )
        except BaseException as error:
            acks.add("error", repr(error))
            raise


def look(session: Session) -> None:
    """In one snapshot: exactly one champion, and it is the one that the history ends with."""
    (champion,) = session.scalars(select(Alias.version).filter_by(name=NAME, alias="champion"))
    newest = select(AliasMove.version).filter_by(name=NAME).order_by(AliasMove.id.desc()).limit(1)
    assert session.scalars(newest).one() == champion


def watch(ws: Workspace, racers: dict[str, BaseProcess], doomed: set[str]) -> int:
    """Look while the race is on, and kill the doomed at random moments; return the looks."""
    dice, looks, left = random.Random(0), 0, sorted(doomed)
    dice.shuffle(left)
    while left or any(process.is_alive() for process in racers.values()):
        with db.reading(ws.database_url) as session:
            look(session)
        looks += 1
        if left and dice.random() < 0.3:
            racer = racers[left.pop()]
            assert racer.pid is not None
            os.kill(racer.pid, signal.SIGKILL)
        time.sleep(dice.uniform(0, 0.05))
    return looks


def test_one_champion_whoever_dies(shared: Workspace, make, tmp_path: Path) -> None:
    """R6, about a minute per database: 50 processes, 20 rounds each or until they are killed."""
    made = [make(shared, kind="checkpoint", config={"n": n}) for n in range(5)]
    for artifact in made:
        models.register(shared, NAME, artifact, "local-run")
    models.promote(shared, NAME, 1, expected=None, reason="first")
    acks = Acks(tmp_path / "acks")
    names = [f"p{n}" for n in range(RACERS)]
    doomed = set(names[::2])
    racers = run(
        {
            me: lambda me=me: race(shared, acks, me, 10**9 if me in doomed else ROUNDS)
            for me in names
        }
    )
    looks = watch(shared, racers, doomed)
    for me, process in racers.items():
        process.join(60)
        assert process.exitcode == (-signal.SIGKILL if me in doomed else 0)
    said = acks.all()
    outcomes = Counter(what for what, _ in said)
    assert outcomes["error"] == 0, [row for row in said if row[0] == "error"][:3]
    moves = models.history(shared, NAME)
    check_history(moves, {token for what, token in said if what == "won"}, doomed)
    with db.reading(shared.database_url) as session:
        look(session)
        told = select(func.count()).select_from(Outbox).where(Outbox.action == "alias")
        assert session.scalar(told) == len(moves)
    print(f"{len(moves)} moves, {dict(outcomes)}, {len(doomed)} killed, {looks} looks")  # noqa: T201


def check_history(moves: list[AliasMove], won: set[str], doomed: set[str]) -> None:
    """Every success is one row; a row nobody was told of is a killed one's last; no gap."""
    assert [m.previous for m in moves[1:]] == [m.version for m in moves[:-1]]
    assert all(m.who and m.previous != m.version for m in moves)
    rows = [move.reason.removeprefix(models.ROLLBACK) for move in moves[1:]]
    assert len(set(rows)) == len(rows)
    assert won <= set(rows)
    untold = Counter(token.partition(":")[0] for token in set(rows) - won)
    assert set(untold) <= doomed and all(n == 1 for n in untold.values())


def update(address: str, acks: Acks, me: str, updates: int) -> None:
    """Read, add one, write, and note that as done, once each whatever happens to the server."""
    for number in range(updates):
        token = f"{me}:{number}"

        def work(session: Session, token: str = token) -> None:
            if session.scalars(select(Outbox.id).filter_by(topic=token)).first():
                return  # the answer to an earlier try was lost, not the try
            row = session.scalars(select(Outbox).filter_by(topic=COUNTER)).one()
            row.payload = {"n": row.payload["n"] + 1}
            session.add(Outbox(system="test", action="add", topic=token, payload={}))

        while True:
            try:
                db.write(address, work)
                break
            except DBAPIError:  # the server is away, or many were faster
                time.sleep(random.uniform(0, 0.2))
        acks.add(token)


def check_updates(address: str, acks: Acks) -> int:
    """The counter is the number of updates noted; none that was acknowledged is missing."""
    with db.reading(address) as session:
        count = session.scalars(select(Outbox.payload).filter_by(topic=COUNTER)).one()["n"]
        noted = list(session.scalars(select(Outbox.topic).filter_by(action="add")))
    assert count == len(noted) == len(set(noted))
    assert {token for (token,) in acks.all()} <= set(noted)
    return int(count)


def begin_updates(ws: Workspace, acks: Acks, doomed: set[str]) -> dict[str, BaseProcess]:
    def add(session: Session) -> None:
        session.add(Outbox(system="test", action="count", topic=COUNTER, payload={"n": 0}))

    db.write(ws.database_url, add)
    names = [f"w{n}" for n in range(WRITERS)]
    return run(
        {
            me: lambda me=me: update(ws.database_url, acks, me, 10**9 if me in doomed else UPDATES)
            for me in names
        }
    )


def test_no_update_is_lost_when_writers_are_killed(shared: Workspace, tmp_path: Path) -> None:
    """R7, about a minute per database: 6 writers, 500 updates each; 3 are killed at random."""
    acks = Acks(tmp_path / "acks")
    doomed = {f"w{n}" for n in range(KILLS)}
    writers = begin_updates(shared, acks, doomed)
    for me in sorted(doomed):
        time.sleep(random.uniform(0.2, 1.0))
        pid = writers[me].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    for me, process in writers.items():
        process.join(600)
        assert process.exitcode == (-signal.SIGKILL if me in doomed else 0)
    total = check_updates(shared.database_url, acks)
    acked = len(acks.all())
    assert (WRITERS - KILLS) * UPDATES <= acked <= total <= acked + KILLS
    print(f"{total} updates, {acked} acknowledged")  # noqa: T201


def test_no_acknowledged_update_is_lost_when_the_server_is_killed(
    server, shared: Workspace, tmp_path: Path
) -> None:
    """R7, about two minutes: the postmaster is killed and started again 10 times."""
    if server is None:
        pytest.skip("SQLite has no server")
    acks = Acks(tmp_path / "acks")
    writers = begin_updates(shared, acks, set())
    crashes = 0
    while crashes < CRASHES and any(process.is_alive() for process in writers.values()):
        time.sleep(random.uniform(0.3, 1.2))
        server.kill()
        server.start()
        crashes += 1
    for process in writers.values():
        process.join(600)
        assert process.exitcode == 0
    total = check_updates(shared.database_url, acks)
    assert total == len(acks.all()) == WRITERS * UPDATES
    assert crashes == CRASHES, f"done before the crash number {crashes + 1}: raise UPDATES"
    print(f"{total} updates, {crashes} crashes")  # noqa: T201
