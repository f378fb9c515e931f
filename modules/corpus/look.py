"""Look at a finished corpus: funnel, samples, domains, lengths, languages and duplicates found.

Every file is read once, shard by shard (the small files of dropped rows twice). What is held in
memory does not grow with the corpus, but for 8 bytes for each duplicate.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from modules.corpus import funnel
from modules.corpus.clusters import find_clusters, survivor
from modules.corpus.contents import (
    Contents,
    LookConfig,
    find_texts,
    no_contents,
    read_contents,
    summary,
)
from modules.corpus.document import shard_paths
from modules.corpus.excerpt import visible
from modules.corpus.funnel import Counts, Drops, Step, read_drops
from modules.corpus.tally import Row
from modules.files import Progress, silent
from modules.parallel import Spread, one_by_one


@dataclass(frozen=True)
class Part:
    """The directory of one step and the counts that the step returned."""

    path: Path
    counts: Counts
    older: frozenset[str] = frozenset()  # names of files carried over from the corpus it continues


@dataclass(frozen=True)
class Corpus:
    """One chain from link dumps to tokens."""

    links: Part
    pages: Part
    text: Part
    documents: Part
    tokens: Part


def look_at(
    corpus: Corpus,
    config: LookConfig,
    *,
    spread: Spread = one_by_one,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Return what a corpus looks like, as a JSON object.

    Raises:
        FileNotFoundError: a directory lacks the files of its step.
    """
    drops = _drops(corpus, config, spread)
    progress(1, 4, "duplicates")
    clusters = find_clusters(_dropped_files(corpus.documents), config, spread)
    progress(2, 4, "documents")
    gone = [row for rows in drops["documents"].samples.values() for row in rows.rows]
    stay = {found.id for row in gone if (found := survivor(row))}
    wanted = frozenset(stay | {cluster["id"] for cluster in clusters["largest"]})
    contents = no_contents(config)
    look = partial(read_contents, config=config, wanted=wanted)
    for part in spread(look, shard_paths(corpus.documents.path)):
        contents.merge(part)
    progress(3, 4, "text of what was dropped")
    find = partial(find_texts, config=config, wanted=frozenset(row["id"] for row in gone))
    texts = dict(
        chain.from_iterable(x.items() for x in spread(find, shard_paths(corpus.text.path)))
    )
    return {
        "funnel": [step.as_row() for step in _steps(corpus, drops)],
        "carried": corpus.documents.counts.get("carried", 0),
        "contents": summary(contents, config),
        "kept": contents.sample.rows,
        "dropped": {name: _samples(drop, texts, contents) for name, drop in drops.items()},
        "duplicates": clusters | {"largest": _named(clusters["largest"], contents)},
    }


def _dropped_files(part: Part, prefix: str = "dropped") -> list[Path]:
    """Return the files in which a step wrote down what it dropped (or rejected)."""
    return sorted(part.path.glob(f"{prefix}*.jsonl.zst"))


def _drops(corpus: Corpus, config: LookConfig, spread: Spread) -> dict[str, Drops]:
    """Return what each step dropped, and what was damaged, by step."""
    read = partial(read_drops, size=config.dropped, seed=config.seed)
    files = {
        "links": _dropped_files(corpus.links),
        "damaged dump lines": _dropped_files(corpus.links, "rejected"),
        "pages": _dropped_files(corpus.pages),
        "damaged WARC records": _dropped_files(corpus.pages, "rejected"),
        "text": _dropped_files(corpus.text),
        "documents": [
            path
            for path in _dropped_files(corpus.documents)
            if path.name not in corpus.documents.older  # the counts are of what is new
        ],
    }
    found = {}
    for name, paths in files.items():
        found[name] = Drops()
        for part in spread(read, paths):
            found[name].merge(part)
    return found


def _steps(corpus: Corpus, drops: dict[str, Drops]) -> Iterator[Step]:
    """Yield the steps of the funnel in order."""
    damaged = drops["damaged dump lines"]
    yield from funnel.links_steps(corpus.links.counts, drops["links"], damaged)
    yield funnel.pages_step(corpus.pages.counts, drops["pages"])
    yield funnel.text_step(corpus.text.counts, drops["text"])
    extracted = corpus.text.counts["documents"]
    yield funnel.documents_step(corpus.documents.counts, drops["documents"], extracted)
    stayed = corpus.documents.counts["kept"] + corpus.documents.counts.get("carried", 0)
    yield funnel.tokens_step(corpus.tokens.counts, stayed)


def _samples(drops: Drops, texts: dict[str, Row], contents: Contents) -> dict[str, list[Row]]:
    """Return some dropped records of each reason, with their text where it was extracted."""
    return {
        reason: [_sample(row, texts, contents) for row in sample.rows]
        for reason, sample in sorted(drops.samples.items())
    }


def _sample(row: Row, texts: dict[str, Row], contents: Contents) -> Row:
    """Return a dropped record to show: text from the step before, and what it duplicates."""
    found: Row = {key: visible(str(value))[:400] for key, value in row.items() if key != "reason"}
    if text := texts.get(str(row.get("id"))):
        found |= {"text": text["text"], "title": text["title"]}
    if (match := survivor(row)) and match.id in contents.wanted:
        found |= {"stays": contents.wanted[match.id], "jaccard": match.jaccard}
    return found


def _named(clusters: list[Row], contents: Contents) -> list[Row]:
    """Add to each group of duplicates the address of the document that stays."""
    names = ("url", "source", "title")
    return [
        cluster | {name: contents.wanted.get(cluster["id"], {}).get(name, "") for name in names}
        for cluster in clusters
    ]
