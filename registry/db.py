"""The one engine factory, and the two ways to a session: `reading` and `write`.

SQLite's driver defaults lose updates (a SELECT runs outside the transaction), so every SQLite
transaction here begins IMMEDIATE for writers, in WAL mode, with synchronous=FULL: an acknowledged
commit survives a power cut. Its connections stay open between uses: closing the last one writes the
WAL back, which costs fifteen times what a small commit does. PostgreSQL runs SERIALIZABLE and a
loser of a race is run again.
"""

import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

log = logging.getLogger(__name__)
T = TypeVar("T")

BUSY_MS = 10_000  # how long a SQLite writer waits for another one
KEPT = 4  # SQLite connections of a process that stay open
ATTEMPTS = 8  # tries of one transaction that lost a race
RACES = {"40001", "40P01", "55P03"}  # PostgreSQL: serialisation failure, deadlock, lock time-out


def redacted(address: str) -> str:
    """Return a database address fit for messages: its password replaced by ***."""
    return parse(address).render_as_string(hide_password=True)


def parse(address: str) -> URL:
    """Parse a database address.

    Raises:
        ValueError: not an address, or of a database that textmill does not speak to.
    """
    try:
        url = make_url(address)
    except ArgumentError:
        raise ValueError(
            "TEXTMILL_DATABASE_URL is not a database address; "
            "expected sqlite:////absolute/path.db or postgresql://user:password@host/name"
        ) from None
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise ValueError(
            f"database {url.render_as_string(hide_password=True)}: textmill speaks to sqlite "
            "and postgresql only"
        )
    return url


def beside(address: str, name: str) -> str | None:
    """Return the address of another database of the same PostgreSQL server; None for SQLite."""
    url = parse(address)
    if url.get_backend_name() == "sqlite":
        return None
    return url.set(database=f"{url.database}_{name}").render_as_string(hide_password=False)


def create_database(address: str) -> None:
    """Create a PostgreSQL database that is not there yet.

    Raises:
        ValueError: the user may not; the message says what an administrator must run.
    """
    url = parse(address)
    maintenance = create_engine(
        url.set(database="postgres"), isolation_level="AUTOCOMMIT", poolclass=NullPool
    )
    name = maintenance.dialect.identifier_preparer.quote_identifier(url.database or "")
    known = text("SELECT 1 FROM pg_database WHERE datname = :name")
    try:
        with maintenance.connect() as connection:
            if connection.scalar(known, {"name": url.database}) is None:
                connection.exec_driver_sql(f"CREATE DATABASE {name}")
    except DBAPIError as error:
        raise ValueError(
            f"{redacted(address)} is not there and cannot be created ({error.orig}); have an "
            f"administrator run: CREATE DATABASE {name} OWNER {url.username}"
        ) from None


@cache
def engine(address: str) -> Engine:
    """Return the process's engine for an address."""
    url = parse(address)
    if url.get_backend_name() == "sqlite":
        return _sqlite(url)
    options = "-c lock_timeout=20s -c statement_timeout=60s"
    arguments = {"connect_timeout": 10, "options": options}
    try:
        return create_engine(
            url, poolclass=NullPool, isolation_level="SERIALIZABLE", connect_args=arguments
        )
    except ModuleNotFoundError as error:
        raise ValueError(
            f"database {redacted(address)} needs {error.name}: pip install 'textmill[postgres]'"
        ) from None


def _sqlite(url: URL) -> Engine:
    """Make a hardened SQLite engine."""
    if url.database in (None, "", ":memory:"):
        raise ValueError("the catalogue must be a file: several processes read it")
    path = str(url.database)
    made = create_engine(
        url, pool_size=KEPT, max_overflow=-1, connect_args={"timeout": BUSY_MS / 1000}
    )

    def check(_connection: Any, record: Any, _proxy: Any) -> None:
        if record.info["belongs"] != _owner(path):
            raise DisconnectionError("another file now, or another process")

    def connected(connection: Any, record: Any) -> None:
        _harden(connection)
        record.info["belongs"] = _owner(path)

    event.listen(made, "connect", connected)
    event.listen(made, "checkout", check)
    event.listen(made, "begin", _begin)
    return made


def _owner(path: str) -> tuple[int, int]:
    """Return what a connection belongs to: a process (not its forks), and a file (not its heir)."""
    try:
        return os.getpid(), Path(path).stat().st_ino
    except FileNotFoundError:
        return os.getpid(), 0


def _harden(connection: Any) -> None:
    """Set what SQLite forgets between connections."""
    connection.isolation_level = None  # the driver must not begin transactions by itself
    connection.execute(f"PRAGMA busy_timeout={BUSY_MS}")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin(connection: Connection) -> None:
    """Begin a transaction that holds the write lock from its first statement."""
    reader = connection.get_execution_options().get("textmill_reader", False)
    connection.exec_driver_sql("BEGIN" if reader else "BEGIN IMMEDIATE")


@contextmanager
def reading(address: str) -> Iterator[Session]:
    """Open a session on one consistent snapshot; what it changes is thrown away."""
    reader = engine(address).execution_options(textmill_reader=True)
    with Session(reader, expire_on_commit=False) as session:
        yield session  # closing rolls back, and leaves the loaded rows readable


def write(address: str, work: Callable[[Session], T]) -> T:
    """Run `work(session)` in one transaction, again where it lost a race, and return its value.

    Raises:
        ValueError: the database cannot be reached; the message names it without its password.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with Session(engine(address), expire_on_commit=False) as session, session.begin():
                return work(session)
        except DBAPIError as error:
            if not lost_a_race(error) or attempt == ATTEMPTS:
                raise
            log.info("transaction lost a race, try %d of %d", attempt + 1, ATTEMPTS)
            time.sleep(random.uniform(0, 0.05 * 2**attempt))
    raise AssertionError("the loop returns or raises")


def lost_a_race(error: DBAPIError) -> bool:
    """Say whether running the same transaction again can succeed."""
    if getattr(error.orig, "sqlstate", None) in RACES:
        return True
    return isinstance(error, OperationalError) and "database is locked" in str(error.orig)


def explain(address: str, error: Exception) -> ValueError:
    """Turn a driver's connection error into one line a user can act on."""
    url = parse(address)
    reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
    if url.password:
        reason = reason.replace(str(url.password), "***")
    hint = "check TEXTMILL_DATABASE_URL and that the server runs"
    if url.get_backend_name() == "sqlite":
        hint = f"check that {Path(str(url.database)).parent} exists and is writable"
    return ValueError(f"cannot open the catalogue {redacted(address)}: {reason}; {hint}")
