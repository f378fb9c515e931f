"""Take one file of documents through the recipe: sorted runs of what stays and of what goes.

The unit of work of `clean`. A finished one is left alone when the step starts again.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modules.corpus import filters
from modules.corpus.document import Document, document_id, read_documents
from modules.corpus.filters import Dropped
from modules.corpus.recipe import CleanConfig, ready_made, webtext
from modules.corpus.references import NO_REFERENCES, References
from modules.corpus.runs import Run, id_of, ids_of, run_at, write_rows
from modules.corpus.sketches import sketch
from modules.files import read_jsonl, write_json

RUN_ROWS = 2**15  # rows sorted in memory at once
RUN_BYTES = 2**25  # characters of text of these
EXTRA_COLUMNS = ("id", "source", "text")  # besides: title, split, license
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Unit:
    """One input file, and where its runs go."""

    source: Path
    ready_made: bool
    config: CleanConfig
    work: Path
    name: str
    known: References = NO_REFERENCES


@dataclass
class Pile:
    """Rows that become runs, one whenever there are many."""

    unit: Unit
    kind: str
    runs: int = 0
    rows: list[Any] = field(default_factory=list)
    size: int = 0

    def add(self, row: Any, size: int) -> None:
        """Add a document, or a row about one."""
        self.rows.append(row)
        self.size += size
        if len(self.rows) >= RUN_ROWS or self.size >= RUN_BYTES:
            self.write()

    def write(self) -> None:
        """Make a run of the rows that there are."""
        if not self.rows:
            return
        run = run_at(self.unit.work, f"{self.unit.name}-{self.kind}-{self.runs:05d}")
        write_rows(run, *self._as_rows())
        self.runs, self.rows, self.size = self.runs + 1, [], 0

    def _as_rows(self) -> tuple[list[dict[str, Any]], np.ndarray]:
        if self.kind == "dropped":
            return self.rows, ids_of(self.rows)
        for document in self.rows:
            id_of(document.id)
        return list(map(vars, self.rows)), sketch(self.rows, self.unit.config.dedup)


def filter_unit(unit: Unit) -> dict[str, Any]:
    """Filter one file; return its counts and how many runs there are of each kind."""
    done = unit.work / f"{unit.name}.json"
    if not done.exists():
        steps = ready_made() if unit.ready_made else webtext(unit.config.filters, unit.known)
        counts: Counter[str] = Counter()
        kept, dropped = Pile(unit, "kept"), Pile(unit, "dropped")
        for document in (read_extra if unit.ready_made else read_documents)(unit.source):
            counts["read"] += 1
            result = filters.apply(steps, document)
            if isinstance(result, Dropped):
                counts[f"dropped.{result.reason}"] += 1
                dropped.add(dropped_row(vars(document), result.reason, result.detail), 0)
            else:
                masked = result.meta.get("masked", {})
                counts.update({f"masked.{kind}": n for kind, n in masked.items()})
                kept.add(result, len(result.text))
        kept.write()
        dropped.write()
        write_json(done, {"counts": counts, "kept": kept.runs, "dropped": dropped.runs})
    found: dict[str, Any] = json.loads(done.read_text())
    return found


def runs_of(unit: Unit, kind: str, count: int) -> list[Run]:
    """Return the runs that a unit made."""
    return [run_at(unit.work, f"{unit.name}-{kind}-{number:05d}") for number in range(count)]


def dropped_row(document: dict[str, Any], reason: str, detail: str) -> dict[str, str]:
    """Return what is kept of a document that goes."""
    return {"id": document["id"], "url": document["url"], "reason": reason, "detail": detail}


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
