"""Run the recipe over a directory of documents, then take out duplicates.

`clean` adds ready-made text sets and writes what stays in the order of the ids (hashes, so any
prefix is a random sample), beside every dropped document's reason and the sketches by which a
later run finds duplicates of these documents without reading them again.

With a base, an older result, the new documents are numbered on behind its shards, which stay as
they are. A run over everything at once would choose otherwise in two cases: of an old and a new
duplicate the old one stays here, whatever their dates say; and what the older run dropped is gone,
so a new document like that one only is kept.
"""

import heapq
import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path

import numpy as np

from modules.corpus.dedup import Duplicate, find_duplicates
from modules.corpus.document import shard_path, shard_paths
from modules.corpus.filtering import Pile, Unit, dropped_row, filter_unit, read_extra, runs_of
from modules.corpus.lsh import Part
from modules.corpus.recipe import CleanConfig, FilterConfig
from modules.corpus.references import NO_REFERENCES, References
from modules.corpus.runs import Row, Run, merge, merged, read_run
from modules.corpus.sketches import sketch_shard, sketched_by, sketches_path, write_array
from modules.files import Progress, carry_over, sha256, silent, write_json, write_lines
from modules.parallel import Spread, one_by_one

log = logging.getLogger(__name__)

WORK = ".work.tmp"  # inside the output while it is made
SKETCHED = "sketches.json"  # what the sketches in a directory follow from
DROPPED_ROWS = 1_000_000  # in one file


def clean(
    extracted: Path,
    extra: list[Path],
    out: Path,
    config: CleanConfig,
    *,
    base: Path | None = None,
    known: References = NO_REFERENCES,
    spread: Spread = one_by_one,
    progress: Progress = silent,
) -> dict[str, int]:
    """Filter and de-duplicate documents into `out`; return counts, per reason too.

    Writes documents-NNNNN, sketches-NNNNN and dropped-NNNNN (rows id, url, reason, detail; for a
    duplicate the detail is the id of the one that stays, their Jaccard, and "older" if it is of
    the base).

    Args:
        base: An older result of this function. Its files are carried over unchanged, its documents
            stay, and new documents that duplicate them go.
        known: Texts that must not be in the corpus, for max_in_evaluation and max_in_wikipedia.

    Raises:
        ValueError: a file of `extra` lacks a column or names an unknown split, two documents have
            one id, or nothing is left.
    """
    for pattern in ("documents-*", "dropped-*", "sketches*", ".*.*.tmp"):
        for path in out.glob(pattern):  # of an interrupted try
            path.unlink()
    units = _units(extracted, extra, out / WORK, config, known)
    counts, kept, dropped = _filter(units, spread, progress)
    old = _carry_over(base, out, config, spread) if base else []
    found: Iterator[tuple[int, Duplicate]] = iter(())
    if config.dedup or old:
        parts = [*old, *(Part(run.lines, run.array) for run in kept)]
        dedup = out / WORK / "dedup"
        found = find_duplicates(parts, config.dedup, dedup, spread=spread, progress=progress)
    duplicates = Unit(extracted, False, config, out / WORK, "duplicates")
    gone = _write_staying(merge(kept), found, out, len(old), duplicates, counts)
    _write_dropped(heapq.merge(merge(dropped), gone, key=itemgetter(0, 1)), out)
    write_json(out / SKETCHED, sketched_by(config.dedup))
    shutil.rmtree(out / WORK)
    if old:
        counts["carried"] = sum(len(np.load(part.sketches, mmap_mode="r")) for part in old)
    total = sum(n for name, n in counts.items() if name.startswith("dropped."))
    assert counts["read"] == counts["kept"] + total, counts
    log.info("cleaned: %s", dict(counts))
    return dict(counts)


def _units(
    extracted: Path, extra: list[Path], work: Path, config: CleanConfig, known: References
) -> list[Unit]:
    """Return the units of work; those that an interrupted try finished are kept if they apply."""
    inputs = [(path, False) for path in shard_paths(extracted)] + [(path, True) for path in extra]
    plan = {
        "inputs": [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p, _ in inputs],
        "config": config.model_dump(mode="json"),
        "known": [sha256(path) if path else None for path in (known.evaluation, known.wikipedia)],
        "sketches": sketched_by(config.dedup),
    }
    begun = work / "plan.json"
    if not begun.exists() or json.loads(begun.read_text()) != plan:
        shutil.rmtree(work, ignore_errors=True)
        write_json(begun, plan)
    return [Unit(path, r, config, work, f"{i:05d}", known) for i, (path, r) in enumerate(inputs)]


def _filter(
    units: list[Unit], spread: Spread, progress: Progress
) -> tuple[Counter[str], list[Run], list[Run]]:
    """Filter all units; return the counts, and the runs of what stays and of what goes."""
    counts: Counter[str] = Counter()
    runs: dict[str, list[Run]] = {"kept": [], "dropped": []}
    for done, (unit, result) in enumerate(zip(units, spread(filter_unit, units), strict=True), 1):
        counts.update(result["counts"])
        for kind, found in runs.items():
            found += runs_of(unit, kind, result[kind])
        progress(done, len(units), f"filtered {unit.source.name}")
    kept, dropped = (merged(found, units[0].work, kind, spread) for kind, found in runs.items())
    return counts, kept, dropped


def _carry_over(base: Path, out: Path, config: CleanConfig, spread: Spread) -> list[Part]:
    """Bring the files of an older result into `out`; return its documents with their sketches."""
    out.mkdir(parents=True, exist_ok=True)
    shards = shard_paths(base)
    for path in [*shards, *base.glob("dropped-*")]:
        carry_over(path, out / path.name)
    described = base / SKETCHED
    if described.exists() and json.loads(described.read_text()) == sketched_by(config.dedup):
        for shard in shards:
            path = sketches_path(shard)
            carry_over(path, out / path.name)
    else:
        log.warning("%s: no sketches of these settings; its documents are read again", base)
        items = [(shard, sketches_path(out / shard.name), config.dedup) for shard in shards]
        for _ in spread(sketch_shard, items):
            pass
    return [Part(out / s.name, sketches_path(out / s.name), old=True) for s in shards]


def _write_staying(
    rows: Iterator[Row],
    found: Iterator[tuple[int, Duplicate]],
    out: Path,
    number: int,
    duplicates: Unit,
    counts: Counter[str],
) -> Iterator[Row]:
    """Write the documents that stay, in shards from a number on; return rows of those that go."""
    gone = Pile(duplicates, "dropped")

    def staying() -> Iterator[Row]:
        following = next(found, None)
        for row in _each_id_once(rows):
            if following is None or following[0] != row[0]:
                yield row
                continue
            counts[f"dropped.{following[1].kind}"] += 1
            gone.add(_gone(row, following[1]), 0)
            following = next(found, None)

    stream = staying()
    counts["kept"] = counts["kept_bytes"] = 0
    for shard, first in enumerate(stream, number):
        batch = chain([first], islice(stream, duplicates.config.shard_documents - 1))
        sketches = _write_shard(shard_path(out, shard), batch)
        counts["kept"] += len(sketches)
        counts["kept_bytes"] += int(sketches["size"].sum(dtype=np.int64))
    if not number and not counts["kept"]:
        raise ValueError(f"no document is left after the filters: {dict(counts)}")
    gone.write()
    return chain.from_iterable(map(read_run, runs_of(duplicates, "dropped", gone.runs)))


def _write_shard(path: Path, rows: Iterable[Row]) -> np.ndarray:
    """Write the documents and sketches of one shard; return the sketches."""
    kept: list[np.void] = []

    def lines() -> Iterator[bytes]:
        for _, line, row in rows:
            kept.append(row.copy())
            yield line

    write_lines(path, lines())
    sketches = np.array(kept)
    write_array(sketches_path(path), sketches)
    return sketches


def _each_id_once(rows: Iterable[Row]) -> Iterator[Row]:
    """Pass documents on.

    Raises:
        ValueError: two of them have the same id.
    """
    last: Row | None = None
    for row in rows:
        if last and last[0] == row[0]:
            both = [json.loads(line) for _, line, _ in (last, row)]
            names = [d["url"] or f"{d['source']} {d['meta'].get('source_id')}" for d in both]
            raise ValueError(f"{names[0]} and {names[1]} have the same id {row[0]:016x}: keep one")
        yield row
        last = row


def _gone(row: Row, duplicate: Duplicate) -> dict[str, str]:
    """Return what is kept of a duplicate."""
    likeness = "unverified" if np.isnan(duplicate.jaccard) else f"{duplicate.jaccard:.3f}"
    detail = f"{duplicate.of} {likeness}" + (" older" if duplicate.older else "")
    return dropped_row(json.loads(row[1]), duplicate.kind, detail)


def _write_dropped(rows: Iterator[Row], out: Path) -> None:
    """Write the rows about documents that went, behind those of a base."""
    number = len(list(out.glob("dropped-*.jsonl.zst")))
    lines = (line for _, line, _ in rows)
    for first in lines:
        part = chain([first], islice(lines, DROPPED_ROWS - 1))
        write_lines(shard_path(out, number, "dropped"), part)
        number += 1
    if not number:
        write_lines(shard_path(out, 0, "dropped"), [])


__all__ = ["CleanConfig", "FilterConfig", "clean", "read_extra"]
