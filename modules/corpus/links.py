"""Submissions to links: karma, blocked hosts, one row per address (GPT-2 paper, section 2.1).

Each dump is read by itself into sorted runs of candidates (candidates.py); here all runs are
merged by address.
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from modules.corpus.candidates import LinksConfig, drop, from_line, parts_of, read_part
from modules.corpus.rows import RowWriter, remove_stale, row_writer
from modules.corpus.sorted_lines import merge_runs
from modules.files import Progress, atomic_write, silent, write_jsonl
from modules.parallel import Spread, one_by_one

NAMED = 1000  # submissions and subreddits named in one link's row; more are only counted


@dataclass
class Link:
    """All submissions of one address."""

    url: str
    config: LinksConfig
    score: int | None = None
    created: int | None = None
    submissions: int = 0
    ids: list[str] = field(default_factory=list)
    subreddits: set[str] = field(default_factory=set)

    def add(self, id: str, score: int, created: int | None, subreddit: str) -> None:
        """Count one submission."""
        combine = sum if self.config.karma == "sum" else max
        self.score = score if self.score is None else combine((self.score, score))
        if created is not None:
            self.created = created if self.created is None else min(self.created, created)
        self.submissions += 1
        if id and len(self.ids) < NAMED:
            self.ids.append(id)
        if subreddit and len(self.subreddits) < NAMED:
            self.subreddits.add(subreddit)

    def row(self) -> dict[str, Any]:
        """Return the row of the links file."""
        return {
            "url": self.url,
            "score": self.score,
            "submissions": sorted(self.ids),
            "created": self.created,
            "subreddits": sorted(self.subreddits),
        }


def _links(
    lines: Iterator[bytes], config: LinksConfig, dropped: RowWriter, counts: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Yield one row per address; later mentions of one submission are dropped as repeats."""
    for address, group in groupby(lines, key=lambda line: line[: line.index(b"\t")]):
        link, last, held = Link(address.decode(), config), "", []
        for line in group:
            id, (score, created, subreddit, file) = from_line(line)
            if id and id == last:
                drop(dropped, counts, "repeated-submission", link.url, id, file)
                continue
            last = id
            link.add(id, score, created, subreddit)
            if config.karma == "sum":  # each of them is dropped if the sum is too low
                held.append((id, file))
        if (link.score or 0) < config.min_karma:
            for id, file in held:
                drop(dropped, counts, "low-karma", link.url, id, file)
            continue
        counts["links"] += 1
        counts["submissions"] += link.submissions
        yield link.row()


def _join(paths: list[Path], out: Path) -> None:
    """Write zstd files one behind the other: again a zstd file."""
    with atomic_write(out) as file:
        for path in paths:
            with path.open("rb") as part:
                shutil.copyfileobj(part, file)


def collect_links(
    dumps: list[Path],
    out: Path,
    config: LinksConfig,
    *,
    spread: Spread = one_by_one,
    progress: Progress = silent,
) -> dict[str, int]:
    """Read link dumps and write links.jsonl.zst, dropped.jsonl.zst and rejected.jsonl.zst.

    Every record ends in a link's submissions, among the dropped (with a reason) or the rejected
    (damaged); a broken container is one more rejected record. The order of `dumps` does not
    matter. A dump that was read before a kill is not read again.

    Raises:
        FileNotFoundError: a dump is not there.
        ValueError: there is no dump, or a table lacks a column.
    """
    if not dumps:
        raise ValueError("no link dumps given: name at least one RS_*.zst, .jsonl, .csv, .parquet")
    for path in dumps:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such link dump")
    remove_stale(out)
    counts = Counter({"lines": 0, "links": 0, "submissions": 0, "dropped": 0, "rejected": 0})
    parts = parts_of(dumps, out, config)
    for number, read in enumerate(spread(read_part, parts)):
        counts.update(read)
        progress(number + 1, len(parts), parts[number].dump.name)
    folders = [part.folder for part in parts]
    runs = [run for folder in folders for run in sorted(folder.glob("run-*"))]
    scratch = out / "parts" / "merge"
    scratch.mkdir(exist_ok=True)
    with row_writer(scratch / "dropped.jsonl.zst") as dropped:
        rows = _links(merge_runs(runs, scratch), config, dropped, counts)
        write_jsonl(out / "links.jsonl.zst", rows)
    _join(
        [folder / "dropped.jsonl.zst" for folder in (*folders, scratch)], out / "dropped.jsonl.zst"
    )
    _join([folder / "rejected.jsonl.zst" for folder in folders], out / "rejected.jsonl.zst")
    shutil.rmtree(out / "parts")
    progress(len(parts), len(parts), f"{counts['links']} links")
    return dict(counts)
