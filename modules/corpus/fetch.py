"""Links to pages by fetching them: a pages artifact with its own WARC files (GPT-2, section 2.1).

Work goes in parts of some thousand links. A part is a WARC file and, written after it, the
outcomes of its links; a killed run goes on with the first part that has none. Links are taken in
the order of a hash, so that every part holds a little of every site and no site's pauses hold up
a whole part.
"""

import asyncio
import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from hashlib import blake2b
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import aiohttp

from modules.corpus.client import Answer, ask
from modules.corpus.crawl import AGENT, Crawl, FetchConfig, Outcome
from modules.corpus.network import Resolve, open_session, system_resolve
from modules.corpus.pages import Reached, Stored, page_row
from modules.corpus.robots import Robots
from modules.corpus.rows import remove_stale, row_writer
from modules.corpus.sorting import sort_rows
from modules.corpus.warc import Capture
from modules.corpus.warc_writer import warc_file
from modules.files import Progress, atomic_write, read_jsonl, silent, write_jsonl

log = logging.getLogger(__name__)


def _hash(row: dict[str, Any]) -> bytes:
    """Return what links are ordered by: nothing to do with their sites."""
    return blake2b(row["url"].encode(), digest_size=16).digest()


def split(links: Iterable[dict[str, Any]], scratch: Path, size: int) -> Iterator[list[str]]:
    """Yield the distinct addresses in parts, each a sample of all."""
    urls = ({"url": row["url"]} for row in links)
    distinct = (url for url, _ in groupby(row["url"] for row in sort_rows(urls, scratch, _hash)))
    while part := list(islice(distinct, size)):
        yield part


def _row(outcome: Outcome, warc: str) -> dict[str, Any]:
    """Return an outcome as it is written."""
    visit, capture = outcome.visit, outcome.visit.capture
    return {
        "url": visit.link,
        "reason": outcome.reason,
        "detail": outcome.detail,
        "final_url": visit.url,
        "transient": outcome.transient,
        "tries": visit.tries + 1,
        "time": outcome.time,
        "status": capture.status if capture else 0,
        "warc": warc if capture else "",
        "offset": capture.offset if capture else None,
        "capture": asdict(capture) if capture else None,
    }


class Fetching:
    """A run over all parts, with what outlives a part: session, robots and counts."""

    def __init__(
        self, session: aiohttp.ClientSession, out: Path, config: FetchConfig, progress: Progress
    ) -> None:
        self._session, self._out, self._config = session, out, config
        self._robots = Robots(self._get_robots, AGENT, config.robots)
        self._progress, self._done, self._total = progress, 0, 0

    async def _get_robots(self, url: str) -> Answer:
        """Ask for a robots.txt."""
        robots, http = self._config.robots, self._config.http
        return await ask(
            self._session,
            url,
            http.but(max_decoded_bytes=robots.max_bytes),
            self._config.network,
            seconds=robots.seconds,
            wanted=lambda answer: answer.status == 200,
        )

    async def run(self, links: Iterable[dict[str, Any]]) -> list[Path]:
        """Fetch all parts that are not finished; return the files of all parts' outcomes."""
        paths: list[Path] = []
        parts = split(self._counted(links), self._out, self._config.part_links)
        for number, part in enumerate(parts):
            path = self._out / "parts" / f"{number:05d}.jsonl.zst"
            if path.is_file() and {row["url"] for row in read_jsonl(path)} == set(part):
                self._done += len(part)
            else:
                await self._fetch(part, f"warc/{number:05d}.warc.gz", path)
            paths.append(path)
        return paths

    def _counted(self, links: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Count the links as they are read (all are, before the first part begins)."""
        for self._total, row in enumerate(links, 1):
            yield row

    async def _fetch(self, part: list[str], warc: str, path: Path) -> None:
        """Fetch one part; its outcomes appear after its WARC file is whole."""
        rows: list[dict[str, Any]] = []

        def report(outcome: Outcome) -> None:
            rows.append(_row(outcome, warc))
            self._done += 1
            if self._done % 100 == 0:
                self._progress(self._done, self._total, warc)

        with warc_file(self._out / warc, self._config.user_agent) as file:
            await Crawl(self._session, self._robots, file, report, self._config).run(part)
        assert len(rows) == len(part)
        write_jsonl(path, sorted(rows, key=_hash))


async def _fetch_all(
    links: Iterable[dict[str, Any]],
    out: Path,
    config: FetchConfig,
    resolve: Resolve,
    progress: Progress,
) -> list[Path]:
    """Open what fetching needs, and fetch."""
    # a name server that does not answer holds a thread for long: one for each request, and some
    # for those whose time ran out
    threads = ThreadPoolExecutor(2 * config.concurrency, "resolve")
    asyncio.get_running_loop().set_default_executor(threads)
    headers = {
        "User-Agent": config.user_agent,
        "Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.1",
        "Accept-Encoding": "gzip, deflate, br, zstd",
    }
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=config.http.connect_seconds, ceil_threshold=float("inf")
    )
    async with open_session(
        config.network, resolve, headers=headers, timeout=timeout, read_bufsize=2**16
    ) as session:
        return await Fetching(session, out, config, progress).run(links)


def _concatenate(paths: Iterable[Path], target: Path) -> None:
    """Join compressed files into one: zstd frames may follow each other."""
    with atomic_write(target) as file:
        for path in paths:
            with path.open("rb") as part:
                shutil.copyfileobj(part, file)


def _pages(outcomes: Path, scratch: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of pages by their place, each with all the links that led to it."""

    def rank(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["final_url"], *Stored(row["warc"], Capture(**row["capture"])).rank, row["url"]

    def pages() -> Iterator[dict[str, Any]]:
        found = (row for row in read_jsonl(outcomes) if not row["reason"])
        for final, rows in groupby(sort_rows(found, scratch, rank), key=lambda r: r["final_url"]):
            group = [
                Reached(row["url"], final, Stored(row["warc"], Capture(**row["capture"])))
                for row in rows
            ]
            yield page_row(group)

    return sort_rows(pages(), scratch, lambda row: (row["warc"], row["offset"]))


def write_pages(out: Path) -> dict[str, int]:
    """Write pages, dropped and rejected rows from the outcomes of all links."""
    outcomes = out / "outcomes.jsonl.zst"
    counts: Counter[str] = Counter(dict.fromkeys(("links", "transient", "rejected", "dropped"), 0))
    with row_writer(out / "dropped.jsonl.zst") as dropped:
        for row in read_jsonl(outcomes):
            counts["links"] += 1
            if row["reason"]:
                counts.update(("dropped", f"dropped_{row['reason']}"))
                counts["transient"] += row["transient"]
                kept = {"url": row["url"], "reason": row["reason"], "detail": row["detail"]}
                changed = row["final_url"] != row["url"]
                dropped.write(kept | ({"final_url": row["final_url"]} if changed else {}))
    write_jsonl(out / "rejected.jsonl.zst", [])  # we know no record that we cannot read
    counts["pages"] = write_jsonl(out / "pages.jsonl.zst", _pages(outcomes, out))
    counts["merged_links"] = counts["links"] - counts["dropped"] - counts["pages"]
    return dict(counts)


def fetch_pages(
    links: Path | Iterable[dict[str, Any]],
    out: Path,
    config: FetchConfig,
    *,
    resolve: Resolve = system_resolve,
    progress: Progress = silent,
) -> dict[str, int]:
    """Fetch the page of each link; write WARC files, pages, dropped rows and outcomes.

    `links` is a links directory or file, or rows with a `url` each. Every link ends in a page's
    row (`url` or `redirected_from`) or among the dropped, and has one row in outcomes.jsonl.zst:
    {url, reason ("" for a page), detail, final_url, transient, tries, time, status, warc, offset}.
    Called again after a kill it goes on with the first unfinished part.

    Raises:
        FileNotFoundError: the links are not there.
        ValueError: the config names no contact.
    """
    config.check()
    if isinstance(links, Path):
        source = links / "links.jsonl.zst" if links.is_dir() else links
        if not source.is_file():
            raise FileNotFoundError(f"{source}: no such links file")
        links = read_jsonl(source)
    for folder in (out, out / "warc", out / "parts"):
        remove_stale(folder)
    outcomes = out / "outcomes.jsonl.zst"
    if not outcomes.is_file():
        parts = asyncio.run(_fetch_all(links, out, config, resolve, progress))
        _concatenate(parts, outcomes)
    shutil.rmtree(out / "parts", ignore_errors=True)
    counts = write_pages(out)
    progress(counts["links"], counts["links"], f"{counts['pages']} pages")
    log.info("%d links lead to %d pages", counts["links"], counts["pages"])
    return counts
