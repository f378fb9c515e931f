"""How fast and how large the crawl ledger is: synthetic links, then the same at 45 million.

    python -m bench.ledger [--rows 5000000] [--database postgresql+psycopg://...] [--folder DIR]

The links come in the order of addresses, as the links step writes them; hosts by Zipf's law, so
that addresses are about as long as real ones. On SQLite the size is that of the file; PostgreSQL
reports its own. The database given must be empty, and is not cleaned up.
"""

import argparse
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import text

from registry import db, ledger
from registry.workspace import Workspace

WEBTEXT = 45_000_000  # links; GPT-2 paper, section 2.1
NOW = datetime(2026, 11, 25, 3, tzinfo=UTC)
LATER = datetime(2026, 12, 25, 3, tzinfo=UTC)


def addresses(n: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield n links in the order of their addresses."""
    random = np.random.default_rng(seed)
    hosts = np.sort(random.zipf(1.3, n) % 1_000_000)
    for i, (host, score) in enumerate(zip(hosts, random.zipf(1.6, n) % 10_000, strict=True)):
        path = f"{2005 + i % 13}/{i % 12 + 1:02d}/a-title-of-usual-length-{seed}-{i:08d}"
        yield {"url": f"https://www.site{host:06d}.com/{path}", "score": int(score) + 3}


def timed(label: str, n: int, work: Callable[[], Any]) -> Any:
    """Run a step and print its rate; CPU time too, since machines are shared."""
    start, busy = time.perf_counter(), time.process_time()
    result = work()
    wall, cpu = time.perf_counter() - start, time.process_time() - busy
    rates = f"{n / wall:>12,.0f} rows/s {n / cpu:>12,.0f} a CPU second"
    print(f"{label:<36}{n:>12,}{wall:>9.1f} s{rates}", flush=True)
    return result


def size(address: str) -> int:
    """Return the database's size in bytes, after moving everything out of SQLite's log."""
    if db.parse(address).get_backend_name() == "postgresql":
        query = text("SELECT pg_total_relation_size('link')")
        with db.reading(address) as session:
            return int(session.execute(query).scalar_one())
    path = Path(str(db.parse(address).database))
    with db.engine(address).execution_options(isolation_level="AUTOCOMMIT").connect() as c:
        c.exec_driver_sql("COMMIT")  # a checkpoint needs a connection without a transaction
        c.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        c.exec_driver_sql("BEGIN")
    return path.stat().st_size


def outcomes(address: str, batch_id: int) -> Iterator[dict[str, Any]]:
    """Yield an outcome for each link of a batch: two of three stored, the rest gone or late."""
    for i, link in enumerate(ledger.batch_links(address, batch_id)):
        reason = ("", "", "http-404", "", "", "timeout-total")[i % 6]
        stored = {"warc": f"warc/{i // 20_000:05d}.warc.gz", "offset": i % 20_000 * 30_000}
        yield {"url": link["url"], "reason": reason} | ({} if reason else stored)


def measure(address: str, rows: int) -> None:
    """Load, load again, claim, close; print rates and sizes."""
    empty = size(address)
    timed("making the synthetic links alone", rows, lambda: sum(1 for _ in addresses(rows)))
    timed("add_links, all new", rows, lambda: ledger.add_links(address, addresses(rows), NOW))
    per_row = (size(address) - empty) / rows
    print(f"{'bytes a row':<36}{per_row:>12.0f}{per_row * WEBTEXT / 1e9:>10.1f} GB at 45 million")
    timed("add_links, all known", rows, lambda: ledger.add_links(address, addresses(rows), LATER))
    part = rows // 5
    timed(
        "add_links, another month",
        part,
        lambda: ledger.add_links(address, addresses(part, 1), LATER),
    )
    batch = timed("open_batch", part, lambda: ledger.open_batch(address, "night", LATER, part))
    closing = lambda: ledger.close_batch(address, batch.id, outcomes(address, batch.id), LATER)  # noqa: E731
    print(timed("batch_links and close_batch", part, closing))
    print(timed("summary", 1, lambda: ledger.summary(address)))
    url = next(addresses(rows))["url"]
    print(timed("story", 1, lambda: ledger.story(address, url)))
    print(f"size {size(address) / 1e9:.2f} GB; peak memory", end=" ")
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def main() -> None:
    """Measure on a new SQLite file, or on the database given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--database", help="an empty PostgreSQL database")
    parser.add_argument("--folder", type=Path, help="where the SQLite file goes")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder, prefix="bench-ledger-"))
    os.environ.pop("TEXTMILL_DATABASE_URL", None)
    if options.database:
        os.environ["TEXTMILL_DATABASE_URL"] = options.database
    try:
        measure(Workspace.open(folder).database_url, options.rows)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
