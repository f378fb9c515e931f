"""The crawl ledger's tables, beside the catalogue's: every link once."""

from datetime import datetime
from enum import IntEnum

from sqlalchemy import Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from registry.tables import Base


class LinkState(IntEnum):
    """Where a link stands; numbers, since there are tens of millions of rows."""

    TODO = 0  # never fetched, or given back by a batch
    CLAIMED = 1  # in an open batch
    DONE = 2  # its answer is stored
    RETRY = 3  # failed in a way that may pass; due again
    FAILED = 4  # never to be fetched again


class Link(Base):
    """One address of the crawl, about 110 bytes; moments are seconds since 1970.

    The key is a hash of the address, so that the table itself is the index (SQLite's rowid), and
    rows in the order of keys are a fair mixture of hosts.
    """

    __tablename__ = "link"
    __table_args__ = (
        Index(
            None,
            "due",
            "key",
            sqlite_where=text("due IS NOT NULL"),
            postgresql_where=text("due IS NOT NULL"),
        ),
        Index(
            None,
            "batch_id",
            "key",
            sqlite_where=text("state = 1"),  # LinkState.CLAIMED
            postgresql_where=text("state = 1"),
        ),
    )

    key: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    url: Mapped[str] = mapped_column(Text)
    score: Mapped[int]
    state: Mapped[int] = mapped_column(default=LinkState.TODO)
    attempts: Mapped[int] = mapped_column(default=0)
    first_seen: Mapped[int]
    due: Mapped[int | None]  # none: not to be fetched
    batch_id: Mapped[int | None]  # the last batch it was in
    time: Mapped[int | None]  # of the last outcome
    reason_id: Mapped[int | None]  # of the last outcome; none if it was stored
    warc_id: Mapped[int | None]
    offset: Mapped[int | None]


class LinkBatch(Base):
    """Links claimed together by one run, until their outcomes are in."""

    __tablename__ = "link_batch"
    __table_args__ = (
        Index(
            "uq_link_batch_open",
            "name",
            unique=True,
            sqlite_where=text("closed IS NULL"),
            postgresql_where=text("closed IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    size: Mapped[int]  # links
    digest: Mapped[str] = mapped_column(String(64))  # of id and keys
    opened: Mapped[datetime]
    closed: Mapped[datetime | None]
    pages: Mapped[str | None] = mapped_column(String(64))  # fingerprint of what was made of it


class LinkName(Base):
    """A reason or a WARC file, spelled once for all links that have it."""

    __tablename__ = "link_name"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text, unique=True)


class LinkCount(Base):
    """How many links stand where; kept by every change, since counting takes minutes."""

    __tablename__ = "link_count"

    state: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    reason: Mapped[str] = mapped_column(Text, primary_key=True)  # "" for none
    n: Mapped[int]
