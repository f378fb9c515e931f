"""Run the recipe over a directory of documents, then take out duplicates.

`clean` adds ready-made text sets and writes what stays in the order of the ids (hashes, so any
prefix is a random sample), beside every dropped document's reason.
"""

import heapq
import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from modules.corpus import filters
from modules.corpus.dedup import Duplicate, find_duplicates
from modules.corpus.document import (
    Document,
    document_id,
    read_documents,
    shard_path,
    shard_paths,
    write_documents,
)
from modules.corpus.filters import Dropped
from modules.corpus.partition import Partition
from modules.corpus.recipe import CleanConfig, FilterConfig, ready_made, webtext
from modules.files import Progress, read_jsonl, silent, write_jsonl

log = logging.getLogger(__name__)

WORK = ".work.tmp"  # inside the output while it is made
EXTRA_COLUMNS = ("id", "source", "text")  # besides: title, split, license
SPLITS = ("train", "val", "test")


def clean(
    extracted: Path,
    extra: list[Path],
    out: Path,
    config: CleanConfig,
    progress: Progress = silent,
) -> dict[str, int]:
    """Filter and de-duplicate documents into `out`; return counts, per reason too.

    Writes documents-NNNNN and dropped-00000 (rows id, url, reason, detail; for a duplicate the
    detail is the id of the one that stays and their Jaccard).

    Raises:
        ValueError: a file of `extra` lacks a column or names an unknown split, two documents have
            one id, or nothing is left.
    """
    for old in [*out.glob("documents-*"), *out.glob("dropped-*")]:
        old.unlink()
    work = out / WORK
    shutil.rmtree(work, ignore_errors=True)
    counts: Counter[str] = Counter()
    with Partition(work) as partition:
        _filter(extracted, extra, partition, config.filters, counts, progress)
    found: dict[str, Duplicate] = {}
    if config.dedup:
        found = find_duplicates(partial(partition.documents, "kept"), config.dedup, progress)
    duplicates = _write_staying(partition, out, found, config.shard_documents, counts)
    dropped = heapq.merge(partition.rows("dropped"), duplicates, key=itemgetter("id"))
    write_jsonl(shard_path(out, 0, "dropped"), dropped)
    shutil.rmtree(work)
    gone = sum(n for name, n in counts.items() if name.startswith("dropped."))
    assert counts["read"] == counts["kept"] + gone, counts
    log.info("cleaned: %s", dict(counts))
    return dict(counts)


def read_extra(path: Path) -> Iterator[Document]:
    """Yield the rows {id, source, text, title?, split?, license?} of a text set as documents.

    Raises:
        ValueError: a column is missing or of the wrong type, or the split is unknown.
    """
    for number, row in enumerate(read_jsonl(path), 1):
        bad = [name for name in EXTRA_COLUMNS if not isinstance(row.get(name), str)]
        if bad:
            raise ValueError(
                f"{path}, row {number}: column {bad[0]!r} is missing or no text; "
                f"needed are {', '.join(EXTRA_COLUMNS)}, there are {', '.join(sorted(row))}"
            )
        meta = {name: row[name] for name in ("split", "license") if row.get(name)}
        if meta.get("split", "train") not in SPLITS:
            raise ValueError(
                f"{path}, row {number}: split {meta['split']!r} is none of {', '.join(SPLITS)}"
            )
        yield Document(
            id=document_id(f"{row['source']}:{row['id']}"),
            text=row["text"],
            title=str(row.get("title") or ""),
            source=row["source"],
            meta=meta | {"source_id": row["id"]},
        )


def _filter(
    extracted: Path,
    extra: list[Path],
    partition: Partition,
    config: FilterConfig,
    counts: Counter[str],
    progress: Progress,
) -> None:
    """Take every document through its steps, into the work files."""
    inputs = [(shard, read_documents, webtext(config)) for shard in shard_paths(extracted)]
    inputs += [(path, read_extra, ready_made()) for path in extra]
    for done, (path, read, steps) in enumerate(inputs):
        progress(done, len(inputs), f"filtering {path.name}")
        for document in read(path):
            counts["read"] += 1
            result = filters.apply(steps, document)
            if isinstance(result, Dropped):
                counts[f"dropped.{result.reason}"] += 1
                row = _dropped_row(result.document, result.reason, result.detail)
                partition.write("dropped", row)
            else:
                partition.write("kept", asdict(result))


def _write_staying(
    partition: Partition,
    out: Path,
    found: dict[str, Duplicate],
    shard_documents: int,
    counts: Counter[str],
) -> list[dict[str, Any]]:
    """Write the documents that stay; return the rows of those that go, in the order of ids."""
    rows: list[dict[str, Any]] = []

    def staying() -> Iterator[Document]:
        for document in partition.documents("kept"):
            duplicate = found.get(document.id)
            if duplicate is None:
                counts["kept"] += 1
                counts["kept_bytes"] += len(document.text.encode())
                yield document
            else:
                counts[f"dropped.{duplicate.kind}"] += 1
                detail = f"{duplicate.of} {duplicate.jaccard:.3f}"
                rows.append(_dropped_row(document, duplicate.kind, detail))

    stream, number = staying(), 0
    while batch := list(islice(stream, shard_documents)):
        write_documents(shard_path(out, number), batch)
        number += 1
    if not number:
        raise ValueError(f"no document is left after the filters: {dict(counts)}")
    return rows


def _dropped_row(document: Document, reason: str, detail: str) -> dict[str, Any]:
    """Return what is kept of a document that goes."""
    return {"id": document.id, "url": document.url, "reason": reason, "detail": detail}
