"""Submissions to links: karma, blocked hosts, one row per address (GPT-2 paper, section 2.1)."""

import heapq
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import urlsplit

from modules.config import Config
from modules.corpus.addresses import blocked_domains, blocked_extensions, canonical_url, refusal
from modules.corpus.dumps import (
    DAMAGE,
    Line,
    Parser,
    Submission,
    csv_parser,
    is_csv,
    open_dump,
    parse_json,
    read_lines,
)
from modules.corpus.rows import RowWriter, remove_stale, row_writer
from modules.files import Progress, read_jsonl, silent, write_jsonl

log = logging.getLogger(__name__)


class LinksConfig(Config):
    """Which posted links count as recommended by people."""

    min_karma: int = 3  # GPT-2 paper, section 2.1: at least 3 karma
    """Lowest score of a submission whose link is taken."""
    karma: Literal["submission", "sum"] = "submission"  # the paper's; OpenWebText2 takes the sum
    """Compare each submission's score, or the sum over all submissions of an address."""
    keep_over_18: bool = False
    """Also take links marked as not for minors (the replications leave them out)."""
    blocked_subreddits: tuple[str, ...] = ()
    """Subreddits whose links are left out (the GPT-2 model card mentions such a list)."""
    created_before: int | None = None  # WebText: no links after December 2017 = 1514764800
    """Leave out submissions made at or after this moment, in seconds since 1970."""
    block_domains: bool = True
    """Leave out the shipped list of hosts without text (images, video, logins)."""
    block_extensions: bool = True
    """Leave out addresses that end like a file that is no page (.png, .pdf, .zip)."""
    extra_blocked: tuple[str, ...] = ()
    """More domains to leave out, each with everything below it."""
    max_line_bytes: int = 16 * 2**20
    """A longer line of a dump is rejected unread."""
    rows_in_memory: int = 1_000_000
    """Accepted submissions held at a time; more are sorted on disk."""

    @property
    def blocked(self) -> frozenset[str]:
        """All domains that are left out."""
        shipped = blocked_domains() if self.block_domains else frozenset()
        return shipped | {domain.lower().strip(".") for domain in self.extra_blocked}


def drop_reason(post: Submission, url: str, config: LinksConfig, blocked: frozenset[str]) -> str:
    """Return why a submission's link is left out, or an empty string."""
    if post.is_self:
        return "self-post"
    if reason := refusal(url, blocked):
        return reason
    ending = PurePosixPath(urlsplit(url).path).suffix[1:].lower()
    if config.block_extensions and ending in blocked_extensions():
        return "blocked-extension"
    if post.over_18 and not config.keep_over_18:
        return "over-18"
    if post.subreddit.lower() in {name.lower() for name in config.blocked_subreddits}:
        return "blocked-subreddit"
    if config.created_before is not None and (post.created or 0) >= config.created_before:
        return "too-late"
    if config.karma == "submission" and post.score < config.min_karma:
        return "low-karma"
    return ""


@dataclass
class Collection:
    """What one pass over the dumps fills: candidates in sorted runs, the rest with reasons."""

    config: LinksConfig
    runs: Path
    dropped: RowWriter
    rejected: RowWriter
    counts: Counter[str]

    def __post_init__(self) -> None:
        self.blocked = self.config.blocked
        self.buffer: list[dict[str, Any]] = []

    def reject(self, file: str, line: int, offset: int, reason: str) -> None:
        """Write down a damaged record."""
        self.rejected.write({"file": file, "line": line, "offset": offset, "reason": reason})
        self.counts["rejected"] += 1

    def drop(self, reason: str, url: str, id: str, file: str) -> None:
        """Write down a submission that is not wanted."""
        self.dropped.write({"reason": reason, "url": url, "id": id, "file": file})
        self.counts["dropped"] += 1
        self.counts[f"dropped_{reason}"] += 1

    def add(self, post: Submission, file: str) -> None:
        """Sort one submission into candidates or dropped ones."""
        try:
            url = post.url if post.is_self else canonical_url(post.url, escaped=True)
            reason = drop_reason(post, url, self.config, self.blocked)
        except ValueError as error:
            url, reason = post.url, str(error)
        if reason:
            self.drop(reason, url[:2000], post.id, file)
            return
        self.buffer.append(
            {
                "url": url,
                "id": post.id,
                "score": post.score,
                "created": post.created,
                "subreddit": post.subreddit,
                "file": file,
            }
        )
        if len(self.buffer) >= self.config.rows_in_memory:
            self.spill()

    def spill(self) -> None:
        """Sort the buffer and write it to disk."""
        number = len(list(self.runs.iterdir()))
        write_jsonl(self.runs / f"run-{number:06d}.jsonl.zst", sorted(self.buffer, key=_order))
        self.buffer = []

    def candidates(self) -> Iterator[dict[str, Any]]:
        """Yield all candidates in the order of their addresses."""
        runs = [read_jsonl(path) for path in sorted(self.runs.iterdir())]
        return heapq.merge(*runs, sorted(self.buffer, key=_order), key=_order)


def _order(row: dict[str, Any]) -> tuple[str, str, int, str]:
    """Sort by address, then by everything else that output depends on."""
    return row["url"], row["id"], -row["score"], json.dumps(row, sort_keys=True)


def read_dump(path: Path, collection: Collection) -> None:
    """Read one dump into the collection; damage costs the line, or the rest of a broken file."""
    number = offset = 0
    parse: Parser = parse_json
    with path.open("rb") as file:
        stream = open_dump(file)
        bare = stream is file and path.suffix in (".zst", ".xz", ".gz", ".bz2")
        if bare and path.stat().st_size:
            collection.reject(path.name, 0, 0, f"container: not a {path.suffix} file")
            return
        try:
            for line in read_lines(stream, collection.config.max_line_bytes):
                if number == 0 and is_csv(path, line.data or b""):
                    parse = csv_parser(path, line.data or b"")
                else:
                    _read_line(line, parse, path.name, collection)
                number, offset = line.number, line.offset + len(line.data or b"")
        except DAMAGE as error:
            reason = f"container: {error or type(error).__name__}"
            collection.reject(path.name, number + 1, offset, reason)
            log.warning("%s: %s after line %d; the rest of it is lost", path, reason, number)
            return
    if number == 0:
        collection.reject(path.name, 0, 0, "container: empty")


def _read_line(line: Line, parse: Parser, file: str, collection: Collection) -> None:
    """Read one line into the collection."""
    collection.counts["lines"] += 1
    try:
        if line.data is None:
            raise ValueError("line-too-long")
        post = parse(line.data)
    except ValueError as error:
        collection.reject(file, line.number, line.offset, str(error))
        return
    collection.add(post, file)


def _links(collection: Collection) -> Iterator[dict[str, Any]]:
    """Yield one row per address; later mentions of one submission are dropped as repeats."""
    config, counts = collection.config, collection.counts
    for url, rows in groupby(collection.candidates(), key=lambda row: row["url"]):
        posts: list[dict[str, Any]] = []
        for row in rows:
            if row["id"] and posts and posts[-1]["id"] == row["id"]:
                collection.drop("repeated-submission", url, row["id"], row["file"])
            else:
                posts.append(row)
        scores = [post["score"] for post in posts]
        score = sum(scores) if config.karma == "sum" else max(scores)
        if score < config.min_karma:
            for post in posts:
                collection.drop("low-karma", url, post["id"], post["file"])
            continue
        counts["links"] += 1
        counts["submissions"] += len(posts)
        yield {
            "url": url,
            "score": score,
            "submissions": sorted(post["id"] for post in posts if post["id"]),
            "created": min((p["created"] for p in posts if p["created"] is not None), default=None),
            "subreddits": sorted({post["subreddit"] for post in posts if post["subreddit"]}),
        }


def collect_links(
    dumps: list[Path], out: Path, config: LinksConfig, *, progress: Progress = silent
) -> dict[str, int]:
    """Read link dumps and write links.jsonl.zst, dropped.jsonl.zst and rejected.jsonl.zst.

    Every line ends in a link's submissions, among the dropped (with a reason) or the rejected
    (damaged); a broken container is one more rejected record. The order of `dumps` does not
    matter.

    Raises:
        FileNotFoundError: a dump is not there.
        ValueError: there is no dump, or a CSV lacks a column.
    """
    if not dumps:
        raise ValueError("no link dumps given: name at least one RS_*.zst, .jsonl or .csv file")
    for path in dumps:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such link dump")
    paths = sorted(set(dumps), key=lambda path: (path.name, str(path)))
    remove_stale(out)
    with ExitStack() as stack:
        runs = stack.enter_context(tempfile.TemporaryDirectory(dir=out, suffix=".tmp"))
        dropped = stack.enter_context(row_writer(out / "dropped.jsonl.zst"))
        rejected = stack.enter_context(row_writer(out / "rejected.jsonl.zst"))
        counts = Counter({"lines": 0, "links": 0, "submissions": 0, "dropped": 0, "rejected": 0})
        collection = Collection(config, Path(runs), dropped, rejected, counts)
        for number, path in enumerate(paths):
            progress(number, len(paths), path.name)
            read_dump(path, collection)
        write_jsonl(out / "links.jsonl.zst", _links(collection))
    progress(len(paths), len(paths), f"{counts['links']} links")
    return dict(counts)
