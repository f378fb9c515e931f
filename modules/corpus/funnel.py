"""What came into each step of a corpus, what it kept, and what was lost for which reason.

Numbers in and out are those that the steps returned; the losses are counted anew from the rows
that the steps wrote, so that `missing` (in less everything out) is a check and not a repetition.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.corpus.tally import Row, Sample, draw
from modules.files import read_jsonl

Counts = Mapping[str, Any]


@dataclass
class Drops:
    """Dropped rows of one file or several: how many for each reason, and some of them."""

    reasons: Counter[str] = field(default_factory=Counter)
    samples: dict[str, Sample] = field(default_factory=dict)

    def merge(self, other: "Drops") -> None:
        """Take over the drops of another file."""
        self.reasons.update(other.reasons)
        for reason, sample in other.samples.items():
            self.samples.setdefault(reason, Sample(sample.size)).merge(sample)


def read_drops(path: Path, size: int, seed: int) -> Drops:
    """Count the rows of a dropped (or rejected) file by reason and sample some of each."""
    drops = Drops()
    for row in read_jsonl(path):
        reason = plain_reason(row["reason"])
        drops.reasons[reason] += 1
        sample = drops.samples.setdefault(reason, Sample(size))
        sample.offer(draw(_key(row), seed), lambda row=row: row)  # type: ignore[misc]
    return drops


def plain_reason(reason: str) -> str:
    """Return a reason without what a broken container's library had to say."""
    return reason.partition(":")[0]


def _key(row: Row) -> str:
    """Return what tells a row from others: its id and address, or its place in a damaged file."""
    return " ".join(str(row.get(name, "")) for name in ("id", "url", "file", "line", "offset"))


@dataclass(frozen=True)
class Step:
    """One step of the funnel; all numbers are in its unit."""

    name: str
    unit: str
    came: int
    kept: int
    joined: int = 0
    rejected: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    added: int = 0  # of those that came: not out of the step before

    @property
    def dropped(self) -> int:
        """All that was left out for a reason."""
        return sum(self.reasons.values())

    @property
    def missing(self) -> int:
        """What came in and is in none of the outcomes; 0, or something is wrong."""
        return self.came - self.kept - self.joined - self.dropped - self.rejected

    def as_row(self) -> Row:
        """Return the step with its derived numbers."""
        return vars(self) | {
            "dropped": self.dropped,
            "missing": self.missing,
            "reasons": dict(sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))),
        }


def links_steps(counts: Counts, dropped: Drops, rejected: Drops) -> list[Step]:
    """Return the way from the lines of the dumps to addresses."""
    broken = rejected.reasons["container"]  # a damaged file is one more record than its lines
    posts = counts["submissions"]
    lines = Step(
        "links",
        "submissions",
        counts["lines"] + broken,
        posts,
        rejected=rejected.reasons.total(),
        reasons=dropped.reasons,
    )
    addresses = counts["links"]
    return [lines, Step("addresses", "links", posts, addresses, joined=posts - addresses)]


def pages_step(counts: Counts, dropped: Drops) -> Step:
    """Return the way from addresses to stored pages."""
    joined = counts.get("merged_links", 0)
    return Step("pages", "links", counts["links"], counts["pages"], joined, reasons=dropped.reasons)


def text_step(counts: Counts, dropped: Drops) -> Step:
    """Return the way from pages to text."""
    return Step("text", "pages", counts["pages"], counts["documents"], reasons=dropped.reasons)


def documents_step(counts: Counts, dropped: Drops, extracted: int) -> Step:
    """Return the way from text to the corpus; what was not extracted is ready-made text."""
    return Step(
        "documents",
        "texts",
        counts["read"],
        counts["kept"],
        reasons=dropped.reasons,
        added=counts["read"] - extracted,
    )


def tokens_step(counts: Counts, documents: int) -> Step:
    """Return the way from documents to tokens."""
    kept = sum(n for name, n in counts.items() if name.endswith(".documents"))
    return Step("tokens", "documents", documents, kept)
