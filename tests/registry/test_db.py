"""SQLite's connections stay open between uses, and never where they would do harm."""

import os
from pathlib import Path

import pytest
from sqlalchemy import text

from registry import db


def put(address: str, value: int) -> None:
    db.write(
        address, lambda session: session.execute(text("INSERT INTO t VALUES (:v)"), {"v": value})
    )


def held(address: str) -> list[int]:
    with db.reading(address) as session:
        return list(session.scalars(text("SELECT v FROM t ORDER BY v")))


@pytest.fixture
def address(tmp_path: Path) -> str:
    made = f"sqlite:///{tmp_path / 'some.db'}"
    db.write(made, lambda session: session.execute(text("CREATE TABLE t (v INTEGER)")))
    return made


def test_one_connection_serves_many_uses_one_after_another(address):
    opened = db.engine(address).pool.checkedin()
    for value in range(5):
        put(address, value)
    assert held(address) == [0, 1, 2, 3, 4]
    assert db.engine(address).pool.checkedin() == opened == 1


def test_a_file_put_in_the_place_of_another_is_the_one_that_is_used(address, tmp_path):
    put(address, 1)
    other = f"sqlite:///{tmp_path / 'other.db'}"
    db.write(other, lambda session: session.execute(text("CREATE TABLE t (v INTEGER)")))
    put(other, 7)
    db.engine(other).dispose()  # its WAL is written back
    for end in ("", "-wal", "-shm"):
        (tmp_path / f"some.db{end}").unlink(missing_ok=True)
    (tmp_path / "other.db").rename(tmp_path / "some.db")
    put(address, 8)
    assert held(address) == [7, 8]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_opens_its_own_and_both_go_on(address):
    put(address, 1)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            put(address, 2)
            status = 0 if held(address) == [1, 2] else 2
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    put(address, 3)
    assert held(address) == [1, 2, 3]
    with db.reading(address) as session:
        assert session.scalar(text("PRAGMA integrity_check")) == "ok"
