"""WARC records to pages: which stored answer belongs to which accepted link."""

import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from modules.config import Config
from modules.corpus.addresses import Blocklist, blocked_domains, refusal
from modules.corpus.captures import (
    REDIRECTS,
    Stored,
    find_captures,
    list_all,
    listings,
    redirect_target,
    reject_damaged,
)
from modules.corpus.rows import remove_stale, row_writer
from modules.corpus.warc import Capture
from modules.files import Progress, read_jsonl, silent, write_jsonl
from modules.parallel import Spread, one_by_one

log = logging.getLogger(__name__)

DROPPED = "dropped.jsonl.zst"
# another WARC file, or another day, may have the page
TRANSIENT = ("no-record", "redirect-no-record", "http-5xx", "http-none", "truncated")
TRY_LATER = (408, 425, 429)


class PagesConfig(Config):
    """Which stored answers count as pages."""

    max_redirects: int = 5
    """Redirects followed from a link before it is given up."""
    content_types: tuple[str, ...] = ("text/html", "application/xhtml+xml")
    """Media types taken as pages; answers without one are taken too and looked at later."""
    keep_truncated: bool = False
    """Also take answers that the crawler or the connection cut off."""
    blocklist: Blocklist = "paper"
    """Which shipped list of hosts without text redirects may not lead to."""
    extra_blocked: tuple[str, ...] = ()
    """More domains to refuse, each with everything below it."""

    @property
    def blocked(self) -> frozenset[str]:
        """All domains that are refused."""
        extra = {domain.lower().strip(".") for domain in self.extra_blocked}
        return blocked_domains(self.blocklist) | extra


def relative_paths(warcs: list[Path], root: Path) -> dict[str, Path]:
    """Return WARC files by their path below the root, in order.

    Raises:
        FileNotFoundError: one is not there.
        ValueError: none is given, or one is not below the root.
    """
    if not warcs:
        raise ValueError("no WARC files given: name at least one .warc or .warc.gz file")
    found: dict[str, Path] = {}
    for path in warcs:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such WARC file")
        if not path.resolve().is_relative_to(root.resolve()):
            raise ValueError(f"{path}: not below the WARC root {root}; move it or name its root")
        found[path.resolve().relative_to(root.resolve()).as_posix()] = path
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class Outcome:
    """What became of a link."""

    link: str
    final: str  # where it led to
    stored: Stored | None  # the last capture on the way
    reason: str  # why there is no page; empty if there is one

    def row(self) -> dict[str, Any]:
        """Return what a ledger of addresses keeps."""
        capture = self.stored.capture if self.stored else None
        status = capture.status if capture else 0
        transient = self.reason in TRANSIENT or (self.reason != "" and status in TRY_LATER)
        place = {"warc": "", "offset": 0, "index": 0}
        if self.stored and capture and not self.reason:
            place = {"warc": self.stored.warc, "offset": capture.offset, "index": capture.index}
        row = {"url": self.link, "final_url": self.final, "reason": self.reason, "status": status}
        return row | place | {"transient": transient}


def follow(
    link: str, index: dict[str, Stored], config: PagesConfig, blocked: frozenset[str]
) -> Outcome:
    """Follow a link to its page or to what is in the way."""
    url, last, seen = link, None, list[str]()
    while True:
        if reason := refusal(url, blocked):
            return Outcome(link, url, last, f"redirect-to-{reason}" if seen else reason)
        stored = index.get(url)
        if stored is None:
            return Outcome(link, url, last, "redirect-no-record" if seen else "no-record")
        if stored.capture.status not in REDIRECTS:
            return Outcome(link, url, stored, answer_reason(stored.capture, config))
        last = stored
        seen.append(url)
        try:
            url = redirect_target(url, stored)
        except ValueError as error:
            return Outcome(link, url, last, f"redirect-to-{error}")
        if not url:
            return Outcome(link, seen[-1], last, "redirect-no-location")
        if url in seen:
            return Outcome(link, url, last, "redirect-loop")
        if len(seen) > config.max_redirects:
            return Outcome(link, url, last, "redirect-limit")


def answer_reason(capture: Capture, config: PagesConfig) -> str:
    """Return why an answer is no page, or an empty string."""
    status = capture.status
    if status != 200:
        return (
            f"http-{status}"
            if status == 404
            else f"http-{status // 100}xx"
            if status
            else "http-none"
        )
    if capture.content_type and capture.content_type not in config.content_types:
        return "not-html"
    if not capture.whole and not config.keep_truncated:
        return "truncated"
    return ""


@dataclass(frozen=True)
class Reached:
    """A link that led to a page."""

    link: str
    final: str
    stored: Stored


def page_row(group: list[Reached]) -> dict[str, Any]:
    """Make the row of one page from all links that led to it."""
    final, stored = group[0].final, group[0].stored
    links = sorted(reached.link for reached in group)
    row = {
        "url": final if final in links else links[0],
        "final_url": final,
        "redirected_from": [link for link in links if link != final],
        "warc": stored.warc,
        "offset": stored.capture.offset,
        "index": stored.capture.index,
        "date": stored.capture.date,
    }
    return row | ({"charset": stored.capture.charset} if stored.capture.charset else {})


def _write_outcomes(
    outcomes: Iterator[Outcome], out: Path, counts: Counter[str]
) -> dict[str, list[Reached]]:
    """Write what became of every link; return those that led to a page, by its address."""
    groups: dict[str, list[Reached]] = {}
    with row_writer(out / "outcomes.jsonl.zst") as all_, row_writer(out / DROPPED) as dropped:
        for outcome in outcomes:
            counts["links"] += 1
            all_.write(outcome.row())
            if outcome.stored and not outcome.reason:
                reached = Reached(outcome.link, outcome.final, outcome.stored)
                groups.setdefault(outcome.final, []).append(reached)
                continue
            extra = {"final_url": outcome.final} if outcome.final != outcome.link else {}
            dropped.write({"url": outcome.link, "reason": outcome.reason} | extra)
            counts.update(("dropped", f"dropped_{outcome.reason}"))
    return groups


def _addresses(links: Path | Iterable[dict[str, Any]]) -> dict[str, None]:
    """Return the addresses of links in their order, each once.

    Raises:
        FileNotFoundError: there is no such file of links.
    """
    if isinstance(links, Path):
        source = links / "links.jsonl.zst" if links.is_dir() else links
        if not source.is_file():
            raise FileNotFoundError(f"{source}: no such links file")
        links = read_jsonl(source)
    return dict.fromkeys(row["url"] for row in links)


def select_pages(
    links: Path | Iterable[dict[str, Any]],
    warcs: list[Path],
    root: Path,
    out: Path,
    config: PagesConfig,
    *,
    spread: Spread = one_by_one,
    progress: Progress = silent,
) -> dict[str, int]:
    """Find the page of each accepted link in WARC files; write pages, dropped and rejected rows.

    Only what a link leads to gets in, by itself or through stored redirects. Every link has a row
    among the outcomes, and ends in a page's row (`url` or `redirected_from`) or among the dropped;
    damaged records are rejected. Rows of pages are in the order of the WARC files, so that reading
    them is sequential. Memory grows with the links, not with the WARC files.

    Args:
        links: The links step's directory, a file of its rows, or rows with a `url` each.

    Raises:
        FileNotFoundError: the links or a WARC file are not there.
        ValueError: a WARC file is not below `root`.
    """
    paths = relative_paths(warcs, root)
    names = ("links", "pages", "merged_links", "dropped", "records", "rejected")
    counts = Counter(dict.fromkeys(names, 0))
    urls = _addresses(links)
    remove_stale(out)
    lists = listings(paths, out / "captures")
    list_all(lists, spread, progress)
    with row_writer(out / "rejected.jsonl.zst") as rejected:
        reject_damaged(lists, rejected, counts)
    index = find_captures(lists, urls, config.max_redirects)
    blocked = config.blocked
    outcomes = (follow(url, index, config, blocked) for url in urls)
    groups = _write_outcomes(outcomes, out, counts)
    rows = sorted(map(page_row, groups.values()), key=itemgetter("warc", "offset", "index"))
    counts["pages"] = write_jsonl(out / "pages.jsonl.zst", rows)
    counts["merged_links"] = sum(len(group) - 1 for group in groups.values())
    shutil.rmtree(out / "captures")
    log.info("%d links lead to %d pages", counts["links"], counts["pages"])
    return dict(counts)
