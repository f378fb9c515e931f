"""What adding links and batches of links share: keys, order, chunks, counts."""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, islice
from typing import Any, TypeVar, cast

import orjson
from sqlalchemy import Table, bindparam, update
from sqlalchemy.orm import Session

from registry.ledger_tables import Link, LinkCount

T = TypeVar("T")
Changes = Counter[tuple[int, str]]  # (state, reason) -> links more
LINK = cast(Table, Link.__table__)

CHUNK = 10_000  # rows in one statement; SQLite binds at most 32,766 values
Row = tuple[int, str, int]  # key of 63 bits, address, score

MEMORY = 200_000  # rows held at a time, about 300 bytes each
PARTS = 256  # temporary files, by the first 8 bits of the key; 45 million rows: 5 GB in all


def in_order(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield rows in lists of about MEMORY, in order within and across the lists.

    Keys are hashes, so that their first bits share them out evenly.
    """
    iterator = iter(rows)
    first = list(islice(iterator, MEMORY))
    if len(first) < MEMORY:
        yield from [sorted(first)] if first else []
        return
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(PARTS)]
        for row in chain(first, iterator):
            files[row[0] >> 55].write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        del first
        chunk: list[Row] = []
        for file in files:
            file.seek(0)
            chunk += sorted(tuple(orjson.loads(line)) for line in file)
            if len(chunk) >= MEMORY:
                yield chunk
                chunk = []
        if chunk:
            yield chunk


def key_of(url: str) -> int:
    """Return an address's key, 63 bits: two of 45 million share one with probability 1e-4."""
    return int.from_bytes(hashlib.blake2b(url.encode(), digest_size=8).digest()) >> 1


def chunks(items: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    """Yield the items in lists."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def update_links(session: Session, rows: list[dict[str, Any]], *columns: str) -> None:
    """Set columns of links, each row by `its_key`."""
    if rows:
        values: dict[str, Any] = {column: bindparam(column) for column in columns}
        changed = update(LINK).where(LINK.c.key == bindparam("its_key")).values(values)
        session.connection().execute(changed, rows)


def count_links(session: Session, changes: Changes) -> None:
    """Keep the counts of states and reasons."""
    for (state, reason), n in sorted(changes.items()):
        row = session.get(LinkCount, (state, reason))
        if row is None:
            row = LinkCount(state=state, reason=reason, n=0)
            session.add(row)
        row.n += n
    session.flush()
