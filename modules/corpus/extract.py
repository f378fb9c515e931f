"""Stored pages to text: shards of pages, each read by a worker process that may be killed.

The settings, the shards and their files; worker.py runs the process that touches the pages.
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from modules.config import Config
from modules.corpus.document import Document, document_id, shard_path, write_documents
from modules.corpus.rows import remove_stale
from modules.corpus.worker import Worker
from modules.files import Progress, read_jsonl, silent, write_jsonl
from modules.parallel import Spread, one_by_one


class ExtractConfig(Config):
    """How pages become text, and what a page may cost."""

    extractor: Literal["fast", "quality"] = "fast"
    """`fast`: main_text.py, over Resiliparse; `quality`: trafilatura has a say too (quality.py)."""
    shard_pages: int = 1000
    """Pages in one shard, the unit of work; a finished shard is not done again."""
    max_decoded_bytes: int = 5 * 2**20
    """A longer page, after decompression, is dropped (too_large_decoded)."""
    cpu_seconds: float = 5.0
    """Processor time that a page may take."""
    wall_seconds: float = 60.0
    """Time on the clock that a page may take; generous, since machines may be busy."""
    memory_mb: int = 512
    """Memory of one worker process, in MiB."""
    min_words: int = 12
    """A page with fewer words is dropped (error pages, login forms)."""

    @property
    def settings(self) -> dict[str, Any]:
        """What a worker process is told when it starts."""
        return {
            "extractor": self.extractor,
            "memory_bytes": self.memory_mb * 2**20,
            "cpu_seconds": self.cpu_seconds,
            "wall_seconds": self.wall_seconds,
            "max_decoded_bytes": self.max_decoded_bytes,
            "min_words": self.min_words,
        }


@dataclass(frozen=True)
class Shard:
    """One unit of work; small, since it travels to other processes."""

    number: int
    pages: Path  # the rows of its pages
    root: Path
    out: Path
    config: ExtractConfig


def _requests(rows: list[dict[str, Any]], root: Path) -> Iterator[dict[str, Any]]:
    """Yield what a worker needs to know about each page."""
    for row in rows:
        place = {"offset": row["offset"], "index": row.get("index", 0)}
        yield {"path": str(root / row["warc"])} | place


def _document(row: dict[str, Any], answer: dict[str, Any]) -> Document:
    """Make a document of a page and its text."""
    url = row["final_url"]
    meta = {
        "charset": answer["charset"],
        "n_replaced": answer["n_replaced"],
        "crawled": row.get("date", ""),
    }
    if row.get("redirected_from"):
        meta["redirected_from"] = row["redirected_from"]
    return Document(
        id=document_id(url),
        url=url,
        text=answer["text"],
        title=answer["title"],
        date=answer["date"],
        source=urlsplit(url).hostname or "",
        meta=meta,
    )


def extract_shard(shard: Shard) -> Counter[str]:
    """Write the documents and the dropped pages of one shard; return its counts.

    Raises:
        ValueError: a WARC file does not hold a page at its place.
    """
    rows = list(read_jsonl(shard.pages))
    dropped: list[dict[str, Any]] = []

    def documents(answers: Iterator[dict[str, Any]]) -> Iterator[Document]:
        for row, answer in zip(rows, answers, strict=True):
            if "fatal" in answer:
                raise ValueError(f"{answer['fatal']}; run the pages step again on these WARC files")
            if "reason" in answer:
                url = row["final_url"]
                dropped.append({"id": document_id(url), "url": url} | answer)
            else:
                yield _document(row, answer)

    with closing(Worker(shard.config.settings)) as worker:
        answers = worker.ask(_requests(rows, shard.root))
        write_documents(shard_path(shard.out, shard.number), documents(answers))
    write_jsonl(shard_path(shard.out, shard.number, "dropped"), dropped)
    return _counts(len(rows), dropped)


def _counts(n_pages: int, dropped: list[dict[str, Any]]) -> Counter[str]:
    """Count the pages of a shard."""
    counts = Counter({"pages": n_pages, "documents": n_pages - len(dropped)})
    for drop in dropped:
        counts.update(("dropped", f"dropped_{drop['reason']}"))
    return counts


def _finished(out: Path, number: int, n_pages: int) -> Counter[str] | None:
    """Return the counts of a shard that an earlier try has finished, or None."""
    paths = shard_path(out, number), shard_path(out, number, "dropped")
    if not all(path.is_file() for path in paths):
        return None
    return _counts(n_pages, list(read_jsonl(paths[1])))


def plan_shards(
    source: Path, root: Path, out: Path, config: ExtractConfig, finished: Counter[str]
) -> list[Shard]:
    """Cut the pages into shards; write the rows of those to do, count those that are done.

    Raises:
        FileNotFoundError: a WARC file is not there.
    """
    folder = out / "plan.tmp"
    rows, shards, seen = read_jsonl(source), [], set[str]()
    number = 0
    while (part := list(islice(rows, config.shard_pages))) or number == 0:
        for name in {row["warc"] for row in part} - seen:
            if not (root / name).is_file():
                raise FileNotFoundError(
                    f"{root / name}: a WARC file that the pages name is missing"
                )
            seen.add(name)
        if (done := _finished(out, number, len(part))) is not None:
            finished.update(done)
        else:
            path = shard_path(folder, number, "pages")
            write_jsonl(path, part)
            shards.append(Shard(number, path, root, out, config))
        number += 1
    return shards


def extract_text(
    pages: Path,
    root: Path,
    out: Path,
    config: ExtractConfig,
    *,
    spread: Spread = one_by_one,
    progress: Progress = silent,
) -> dict[str, int]:
    """Extract the main text of selected pages; write shards of documents and of dropped pages.

    `pages` is the directory (or file) that select_pages wrote, `root` the folder its WARC paths
    are relative to. Every page ends in a document or among the dropped.

    Raises:
        FileNotFoundError: the pages file or a WARC file is not there.
        ValueError: a WARC file does not hold the page at its place.
    """
    source = pages / "pages.jsonl.zst" if pages.is_dir() else pages
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such pages file")
    remove_stale(out)
    counts: Counter[str] = Counter({"pages": 0, "documents": 0, "dropped": 0})
    shards = plan_shards(source, root, out, config, counts)
    for done, found in enumerate(spread(extract_shard, shards), 1):
        counts.update(found)
        progress(done, len(shards), f"{counts['documents']} documents")
    shutil.rmtree(out / "plan.tmp", ignore_errors=True)
    return dict(counts)
