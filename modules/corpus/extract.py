"""Stored pages to text: shards of pages through worker processes that may be killed.

A page that crashes, hangs or bloats the parser (Resiliparse has crashed on real pages) costs
itself only: it is tried once more in a fresh process and then dropped with a reason.
"""

import json
import logging
import os
import queue
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from modules.config import Config
from modules.corpus.document import Document, document_id, shard_path, write_documents
from modules.corpus.rows import remove_stale
from modules.files import Progress, read_jsonl, silent, write_jsonl

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
OUT_OF_MEMORY = 77  # as in extract_worker.py, which this file must not import
KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "SYSTEMROOT")  # no credentials


class ExtractConfig(Config):
    """How pages become text, and what a page may cost."""

    shard_pages: int = 1000
    """Pages in one shard, the unit of work; a finished shard is not done again."""
    workers: int = 0
    """Worker processes; 0 means one for each CPU core. The text does not depend on it."""
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
    def limits(self) -> dict[str, float]:
        """What a worker process sets on itself."""
        return {
            "memory_bytes": self.memory_mb * 2**20,
            "cpu_seconds": self.cpu_seconds,
            "wall_seconds": self.wall_seconds,
        }


class Worker:
    """One worker process, started on first use and again after it was killed."""

    def __init__(self, config: ExtractConfig) -> None:
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._fresh = True

    def _started(self) -> subprocess.Popen[bytes]:
        """Return the running process."""
        if self._process is None:
            environment = {k: os.environ[k] for k in KEPT_ENVIRONMENT if k in os.environ}
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.extract_worker", self._limits()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
            )
            assert self._process.stdout is not None
            if self._process.stdout.readline() != b"ready\n":
                raise RuntimeError(f"the extraction worker does not start: {self.stop()}")
            self._fresh = True
        return self._process

    def _limits(self) -> str:
        """Return the limits as the worker's argument."""
        return json.dumps(self._config.limits)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer for one page, or the reason why the process died of it twice."""
        while True:
            process = self._started()
            was_fresh, self._fresh = self._fresh, False
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except BrokenPipeError:
                line = b""
            if line.endswith(b"\n"):
                answer: dict[str, Any] = json.loads(line)
                return answer
            reason, detail = death(self.stop())
            if was_fresh:  # not the fault of what earlier pages left behind
                log.warning("page %s: %s (%s)", request["url"], reason, detail)
                return {"reason": reason, "detail": detail}

    def stop(self) -> int:
        """End the process; return its exit status, 0 if there was none."""
        process, self._process = self._process, None
        if process is None:
            return 0
        assert process.stdin is not None and process.stdout is not None
        process.stdout.close()
        with suppress(BrokenPipeError):  # it is dead already
            process.stdin.close()
        try:
            return process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def death(status: int) -> tuple[str, str]:
    """Return (reason, detail) for the exit status of a worker that died of a page."""
    if status == OUT_OF_MEMORY:
        return "extract-memory", "over the memory limit"
    if -status in (signal.SIGPROF, signal.SIGALRM):
        return "extract-timeout", "over the time limit"
    name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    return "extract-crash", name


@contextmanager
def worker_pool(config: ExtractConfig) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """Open a pool; what it yields asks any idle worker, from any thread."""
    n = config.workers or os.cpu_count() or 1
    workers = [Worker(config) for _ in range(n)]
    idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def ask(request: dict[str, Any]) -> dict[str, Any]:
        worker = idle.get()
        try:
            return worker.ask(request)
        finally:
            idle.put(worker)

    try:
        yield ask
    finally:
        for worker in workers:
            worker.stop()


def _request(row: dict[str, Any], root: Path, config: ExtractConfig) -> dict[str, Any]:
    """Return what a worker needs to know about a page."""
    return {
        "url": row["final_url"],
        "path": str(root / row["warc"]),
        "offset": row["offset"],
        "index": row.get("index", 0),
        "max_decoded_bytes": config.max_decoded_bytes,
        "min_words": config.min_words,
    }


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


def _finished(out: Path, number: int, n_pages: int) -> Counter[str] | None:
    """Return the counts of a shard that an earlier try has finished, or None."""
    paths = shard_path(out, number), shard_path(out, number, "dropped")
    if not all(path.is_file() for path in paths):
        return None
    n_documents = sum(1 for _ in read_jsonl(paths[0]))
    counts = Counter({"documents": n_documents})
    for row in read_jsonl(paths[1]):
        counts.update(("dropped", f"dropped_{row['reason']}"))
    return counts if counts["documents"] + counts["dropped"] == n_pages else None


def extract_shard(
    rows: list[dict[str, Any]],
    out: Path,
    number: int,
    answers: Iterator[dict[str, Any]],
) -> Counter[str]:
    """Write the documents and the dropped pages of one shard; return its counts."""
    dropped: list[dict[str, Any]] = []

    def documents() -> Iterator[Document]:
        for row, answer in zip(rows, answers, strict=True):
            if "fatal" in answer:
                raise ValueError(f"{answer['fatal']}; run the pages step again on these WARC files")
            if "reason" in answer:
                url = row["final_url"]
                dropped.append({"id": document_id(url), "url": url} | answer)
            else:
                yield _document(row, answer)

    counts = Counter({"documents": write_documents(shard_path(out, number), documents())})
    write_jsonl(shard_path(out, number, "dropped"), dropped)
    for drop in dropped:
        counts.update(("dropped", f"dropped_{drop['reason']}"))
    return counts


def extract_text(
    pages: Path, root: Path, out: Path, config: ExtractConfig, *, progress: Progress = silent
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
    names = {row["warc"] for row in read_jsonl(source)}
    for name in sorted(names):
        if not (root / name).is_file():
            raise FileNotFoundError(f"{root / name}: a WARC file that the pages name is missing")
    remove_stale(out)
    total = sum(1 for _ in read_jsonl(source))
    counts: Counter[str] = Counter({"pages": total, "documents": 0, "dropped": 0})
    all_rows = read_jsonl(source)
    done = number = 0
    threads = config.workers or os.cpu_count() or 1
    with worker_pool(config) as ask, ThreadPoolExecutor(threads) as threadpool:
        while (rows := list(islice(all_rows, config.shard_pages))) or number == 0:
            found = _finished(out, number, len(rows))
            if found is None:
                requests = [_request(row, root, config) for row in rows]
                found = extract_shard(rows, out, number, threadpool.map(ask, requests))
            counts.update(found)
            done, number = done + len(rows), number + 1
            progress(done, total, f"{counts['documents']} documents")
    return dict(counts)
