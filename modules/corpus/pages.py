"""WARC records to pages: which stored answer belongs to which accepted link."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from modules.config import Config
from modules.corpus.addresses import blocked_domains, canonical_url, refusal
from modules.corpus.rows import RowWriter, remove_stale, row_writer
from modules.corpus.warc import Capture, Damage, read_captures
from modules.files import Progress, read_jsonl, silent, write_jsonl

log = logging.getLogger(__name__)

REDIRECTS = (301, 302, 303, 307, 308)


class PagesConfig(Config):
    """Which stored answers count as pages."""

    max_redirects: int = 5
    """Redirects followed from a link before it is given up."""
    content_types: tuple[str, ...] = ("text/html", "application/xhtml+xml")
    """Media types taken as pages; answers without one are taken too and looked at later."""
    keep_truncated: bool = False
    """Also take answers that the crawler or the connection cut off."""
    block_domains: bool = True
    """Refuse redirects to the shipped list of hosts without text."""
    extra_blocked: tuple[str, ...] = ()
    """More domains to refuse, each with everything below it."""

    @property
    def blocked(self) -> frozenset[str]:
        """All domains that are refused."""
        shipped = blocked_domains() if self.block_domains else frozenset()
        return shipped | {domain.lower().strip(".") for domain in self.extra_blocked}


@dataclass(frozen=True)
class Stored:
    """A capture and the file it lies in."""

    warc: str  # relative to the root
    capture: Capture

    @property
    def rank(self) -> tuple[bool, bool, str, str, int, int]:
        """Sort captures of one address: good answers first, then the earliest."""
        c = self.capture
        return c.status != 200, not c.whole, c.date, self.warc, c.offset, c.index


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


def index_captures(
    warcs: dict[str, Path], rejected: RowWriter, counts: Counter[str], progress: Progress
) -> dict[str, Stored]:
    """Read all WARC files; return the best capture of each address (about 500 bytes each)."""
    index: dict[str, Stored] = {}
    for number, (name, path) in enumerate(warcs.items()):
        progress(number, len(warcs), name)
        for item in read_captures(path):
            counts["records"] += 1
            reason = item.reason if isinstance(item, Damage) else ""
            if isinstance(item, Capture):
                try:
                    address = canonical_url(item.url)
                except ValueError as error:
                    reason = str(error)
            if reason:
                rejected.write({"file": name, "offset": item.offset, "reason": reason})
                counts["rejected"] += 1
                continue
            assert isinstance(item, Capture)
            stored, known = Stored(name, item), index.get(address)
            if known is None or stored.rank < known.rank:
                index[address] = stored
            if known is not None:
                counts["records_again"] += 1  # another capture of an address
    return index


def follow(
    url: str, index: dict[str, Stored], config: PagesConfig, blocked: frozenset[str]
) -> tuple[str, Stored | None, str]:
    """Follow a link to its page; return (last address, capture or None, reason if refused)."""
    seen: list[str] = []
    while True:
        if reason := refusal(url, blocked):
            return url, None, f"redirect-to-{reason}" if seen else reason
        stored = index.get(url)
        if stored is None:
            return url, None, "redirect-no-record" if seen else "no-record"
        if stored.capture.status not in REDIRECTS:
            return url, stored, answer_reason(stored.capture, config)
        seen.append(url)
        if not stored.capture.location:
            return url, None, "redirect-no-location"
        try:
            url = canonical_url(urljoin(url, stored.capture.location))
        except ValueError as error:
            return url, None, f"redirect-to-{error}"
        if url in seen:
            return url, None, "redirect-loop"
        if len(seen) > config.max_redirects:
            return url, None, "redirect-limit"


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


def _reach(
    links: Path,
    index: dict[str, Stored],
    config: PagesConfig,
    dropped: RowWriter,
    counts: Counter[str],
) -> Iterator[Reached]:
    """Yield the links that lead to a page, each page's own link first; drop the others."""
    blocked = config.blocked
    for row in read_jsonl(links):
        counts["links"] += 1
        url = row["url"]
        final, stored, reason = follow(url, index, config, blocked)
        if stored is not None and not reason:
            yield Reached(url, final, stored)
            continue
        extra = {"final_url": final} if final != url else {}
        dropped.write({"url": url, "reason": reason} | extra)
        counts["dropped"] += 1
        counts[f"dropped_{reason}"] += 1


def select_pages(
    links: Path,
    warcs: list[Path],
    root: Path,
    out: Path,
    config: PagesConfig,
    *,
    progress: Progress = silent,
) -> dict[str, int]:
    """Find the page of each accepted link in WARC files; write pages, dropped and rejected rows.

    Only what a link leads to gets in, by itself or through stored redirects. Every link ends in
    a page's row (`url` or `redirected_from`) or among the dropped; damaged records are rejected.
    Rows of pages are in the order of the WARC files, so that reading them is sequential.

    Raises:
        FileNotFoundError: the links or a WARC file are not there.
        ValueError: a WARC file is not below `root`.
    """
    paths = relative_paths(warcs, root)
    names = ("links", "pages", "merged_links", "dropped", "records", "rejected")
    counts = Counter(dict.fromkeys(names, 0))
    source = links / "links.jsonl.zst" if links.is_dir() else links
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such links file")
    remove_stale(out)
    with ExitStack() as stack:
        dropped = stack.enter_context(row_writer(out / "dropped.jsonl.zst"))
        rejected = stack.enter_context(row_writer(out / "rejected.jsonl.zst"))
        index = index_captures(paths, rejected, counts, progress)
        groups: dict[str, list[Reached]] = {}
        for reached in _reach(source, index, config, dropped, counts):
            groups.setdefault(reached.final, []).append(reached)
        rows = [page_row(group) for group in groups.values()]
        rows.sort(key=itemgetter("warc", "offset", "index"))
        counts["pages"] = write_jsonl(out / "pages.jsonl.zst", rows)
        counts["merged_links"] = sum(len(group) - 1 for group in groups.values())
    progress(len(paths), len(paths), f"{counts['pages']} pages")
    log.info("%d links lead to %d pages", counts["links"], counts["pages"])
    return dict(counts)
