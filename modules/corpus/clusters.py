"""The groups of duplicates that de-duplication found, from the rows of what it dropped.

A row's detail names the document that stays, their Jaccard, and whether that document is of an
older corpus; so each group is one document that stays and all that went for it.
"""

import re
from array import array
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modules.corpus.contents import LookConfig
from modules.corpus.excerpt import visible
from modules.corpus.tally import Row, Sample, draw
from modules.files import read_jsonl
from modules.parallel import Spread

DETAIL = re.compile(r"([0-9a-f]{16}) ([01]\.\d+|unverified)( older)?")


class Survivor(NamedTuple):
    """The document that stays where another one goes as its duplicate."""

    id: str
    jaccard: str  # 0 to 1 with three digits, or "unverified"
    older: bool  # it is of the corpus that this one continues


def survivor(row: Row) -> Survivor | None:
    """Return what a dropped document duplicates, or None if it went for another reason."""
    match = DETAIL.match(row.get("detail") or "") if "duplicate" in row["reason"] else None
    return Survivor(match[1], match[2], bool(match[3])) if match else None


def read_survivors(path: Path) -> tuple[bytes, Counter[str]]:
    """Return the survivor of each duplicate in a dropped file, 8 bytes each, and Jaccard's bins."""
    found, bins = array("Q"), Counter[str]()
    for row in read_jsonl(path):
        if match := survivor(row):
            found.append(int(match.id, 16))
            bins[jaccard_bin(match.jaccard)] += 1
            bins["of the older corpus"] += match.older
    return found.tobytes(), bins


def jaccard_bin(jaccard: str) -> str:
    """Return the twentieth that a Jaccard lies in."""
    if jaccard == "unverified":
        return jaccard
    return f"{int(20 * float(jaccard) + 1e-9) / 20:.2f}"  # 0.15 * 20 is a little under 3


def read_members(path: Path, config: LookConfig, wanted: frozenset[str]) -> dict[str, Sample]:
    """Return some of the documents that went for each of the wanted survivors."""
    found: dict[str, Sample] = {}
    for row in read_jsonl(path):
        match = survivor(row)
        if match and match.id in wanted:
            member = {"url": visible(row["url"][: 2 * config.width]), "jaccard": match.jaccard}
            sample = found.setdefault(match.id, Sample(config.members))
            sample.offer(draw(row["id"], config.seed), lambda member=member: member)  # type: ignore[misc]
    return found


def find_clusters(dropped: list[Path], config: LookConfig, spread: Spread) -> dict[str, Any]:
    """Return how many groups of each size there are, and the largest ones with some addresses."""
    parts, likeness = [b""], Counter[str]()
    for part, bins in spread(read_survivors, dropped):
        parts.append(part)
        likeness.update(bins)
    older = likeness.pop("of the older corpus", 0)
    ids, gone = np.unique(np.frombuffer(b"".join(parts), dtype=np.uint64), return_counts=True)
    sizes, groups = np.unique(gone + 1, return_counts=True)
    order = np.lexsort((ids, -gone))[: config.clusters]
    largest = {f"{int(ids[i]):016x}": int(gone[i]) + 1 for i in order}
    members = {survivor: Sample(config.members) for survivor in largest}
    look = partial(read_members, config=config, wanted=frozenset(largest))
    for found in spread(look, dropped):
        for key, sample in found.items():
            members[key].merge(sample)
    return {
        "duplicates": int(gone.sum()),
        "clusters": len(ids),
        "of_older": older,
        "sizes": {str(size): n for size, n in zip(sizes.tolist(), groups.tolist(), strict=True)},
        "jaccard": dict(sorted(likeness.items())),
        "largest": [
            {"id": key, "size": size, "members": members[key].rows} for key, size in largest.items()
        ],
    }
