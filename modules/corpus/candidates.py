"""Submissions of one dump to candidates: which posted links count (GPT-2 paper, section 2.1)."""

import hashlib
import json
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from modules.config import Config
from modules.corpus.addresses import (
    Blocklist,
    blocked_domains,
    blocked_extensions,
    canonical_url,
    ending_of,
    refusal,
)
from modules.corpus.dumps import read_dump
from modules.corpus.rows import RowWriter, row_writer
from modules.corpus.sorted_lines import write_run
from modules.corpus.submissions import MAX_INTEGER, Rejection, Submission
from modules.files import write_json


class LinksConfig(Config):
    """Which posted links count as recommended by people."""

    min_karma: int = 3  # GPT-2 paper, section 2.1: at least 3 karma
    """Lowest karma of a link that is taken (3 in the paper and in all replications)."""
    karma: Literal["submission", "sum"] = "submission"
    """Compare the score of each submission (the paper; jcpeterson/openwebtext;
    yet-another-account/openwebtext), or the sum over all submissions of an address
    (OpenWebText2)."""
    keep_over_18: bool = False
    """Also take links marked as not for minors (jcpeterson and yet-another-account leave them
    out; the paper says nothing, OpenWebText2 keeps them)."""
    blocked_subreddits: tuple[str, ...] = ()
    """Subreddits whose links are left out (the GPT-2 model card tells of such a list, of sexually
    explicit or otherwise offensive ones, without publishing it; no replication has one)."""
    created_before: int | None = None  # WebText: no links after December 2017 = 1514764800
    """Leave out submissions made at or after this moment, in seconds since 1970."""
    blocklist: Blocklist = "paper"
    """Hosts to leave out. paper: those without text that are missing among WebText's published
    domains. replications: the list of jcpeterson/openwebtext and OpenWebText2, which also blocks
    google, github and ebay. none: only Wikipedia and Reddit, which always stay out."""
    block_extensions: bool = True
    """Leave out addresses that end like a file that is no page, .png, .pdf, .zip (all
    replications; the paper says nothing, and its extractors read nothing but HTML)."""
    extra_blocked: tuple[str, ...] = ()
    """More domains to leave out, each with everything below it."""
    max_line_bytes: int = 16 * 2**20
    """A longer line of a dump is rejected unread."""
    rows_in_memory: int = 1_000_000
    """Accepted submissions held at a time in each process (about 250 bytes each); more are sorted
    on disk."""

    @property
    def blocked(self) -> frozenset[str]:
        """All domains that are left out."""
        extra = {domain.lower().strip(".") for domain in self.extra_blocked}
        return blocked_domains(self.blocklist) | extra


def drop_reason(post: Submission, url: str, config: LinksConfig, blocked: frozenset[str]) -> str:
    """Return why a submission's link is left out, or an empty string."""
    if reason := refusal(url, blocked):
        return reason
    if config.block_extensions and ending_of(url) in blocked_extensions():
        return "blocked-extension"
    if post.over_18 and not config.keep_over_18:
        return "over-18"
    if config.blocked_subreddits and post.subreddit.lower() in {
        name.lower() for name in config.blocked_subreddits
    }:
        return "blocked-subreddit"
    if config.created_before is not None and (post.created or 0) >= config.created_before:
        return "too-late"
    if config.karma == "submission" and post.score < config.min_karma:
        return "low-karma"
    return ""


@dataclass(frozen=True)
class Part:
    """One dump, and the folder for what reading it gives."""

    dump: Path
    folder: Path
    config: LinksConfig


@dataclass
class Candidates:
    """What reading one dump fills: candidates in sorted runs, the rest with reasons."""

    part: Part
    dropped: RowWriter
    rejected: RowWriter
    counts: Counter[str] = field(default_factory=Counter)
    lines: list[bytes] = field(default_factory=list)
    runs: int = 0

    def __post_init__(self) -> None:
        self.blocked = self.part.config.blocked

    def add(self, post: Submission) -> None:
        """Sort one submission into candidates or dropped ones."""
        url, reason = post.url, post.unfit
        if not reason:
            try:
                url = canonical_url(url, escaped=True)
                reason = drop_reason(post, url, self.part.config, self.blocked)
            except ValueError as error:
                reason = str(error)
        if reason:
            drop(self.dropped, self.counts, reason, url[:2000], post.id, self.part.dump.name)
            return
        self.lines.append(to_line(url, post, self.part.dump.name))
        if len(self.lines) >= self.part.config.rows_in_memory:
            self.spill()

    def reject(self, rejection: Rejection) -> None:
        """Write down a damaged record."""
        self.rejected.write(
            {
                "file": self.part.dump.name,
                "line": rejection.line,
                "offset": rejection.offset,
                "reason": rejection.reason,
            }
        )
        self.counts["rejected"] += 1

    def spill(self) -> None:
        """Sort the candidates in memory and write them to disk."""
        self.lines.sort()
        write_run(self.part.folder / f"run-{self.runs:06d}", self.lines)
        self.lines, self.runs = [], self.runs + 1


def drop(
    dropped: RowWriter, counts: Counter[str], reason: str, url: str, id: str, file: str
) -> None:
    """Write down a submission that is not wanted."""
    dropped.write({"reason": reason, "url": url, "id": id, "file": file})
    counts["dropped"] += 1
    counts[f"dropped_{reason}"] += 1


def to_line(url: str, post: Submission, file: str) -> bytes:
    """Return a candidate as a line that sorts by address, submission and falling score."""
    rest = orjson.dumps([post.score, post.created, post.subreddit, file])
    falling = MAX_INTEGER - post.score
    return b"%b\t%b\t%017d\t%b\n" % (url.encode(), orjson.dumps(post.id), falling, rest)


def from_line(line: bytes) -> tuple[str, list[Any]]:
    """Return the submission's id, and its score, time, subreddit and file."""
    _, id, _, rest = line.split(b"\t")
    return orjson.loads(id), orjson.loads(rest)


def parts_of(dumps: list[Path], out: Path, config: LinksConfig) -> list[Part]:
    """Give each dump a folder that is its own as long as dump and config stay the same."""
    parts = []
    for path in sorted(set(dumps), key=lambda path: (path.name, str(path))):
        about = path.stat()
        key = [str(path), about.st_size, about.st_mtime_ns, config.model_dump_json()]
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        parts.append(Part(path, out / "parts" / f"{path.name[:100]}-{digest}", config))
    for folder in (out / "parts").glob("*"):
        if folder not in {part.folder for part in parts}:
            shutil.rmtree(folder)
    return parts


def read_part(part: Part) -> dict[str, int]:
    """Read one dump into its folder, unless that was done before; return the counts."""
    done = part.folder / "counts.json"
    if done.is_file():
        found: dict[str, int] = json.loads(done.read_bytes())
        return found
    shutil.rmtree(part.folder, ignore_errors=True)
    part.folder.mkdir(parents=True)
    with (
        row_writer(part.folder / "dropped.jsonl.zst") as dropped,
        row_writer(part.folder / "rejected.jsonl.zst") as rejected,
    ):
        candidates = Candidates(part, dropped, rejected)
        for item in read_dump(part.dump, part.config.max_line_bytes):
            if not isinstance(item, Rejection) or not item.reason.startswith("container"):
                candidates.counts["lines"] += 1
            if isinstance(item, Rejection):
                candidates.reject(item)
            else:
                candidates.add(item)
        candidates.spill()
    write_json(done, candidates.counts)
    return dict(candidates.counts)
