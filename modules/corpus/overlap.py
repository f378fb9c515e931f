"""How much of an evaluation set the training text holds (GPT-2 paper, section 4).

The overlap of a data set is the share of its 8-grams that occur in the training documents, after
both are normalised to lower-cased alphanumeric words; found by a Bloom filter whose rate of false
positives is bounded and checked with random strings, as in the paper. Every occurrence of an
8-gram counts; a text of fewer words has none.
"""

import csv
import io
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from modules.config import Config
from modules.corpus.bloom import PART, Filter, fill, part_bounds, write_filter
from modules.corpus.document import shard_paths
from modules.corpus.ngrams import alphanumeric_words, distinct, ngram_hashes
from modules.corpus.shards import training_texts
from modules.corpus.splits import TokensConfig
from modules.files import Progress, atomic_write, silent, write_bytes, write_json, write_jsonl
from modules.parallel import Spread, one_by_one
from modules.task import Row, Task, load_rows

log = logging.getLogger(__name__)

FILTER = "filter"
WORK = ".grams.tmp"  # inside the output while the filter is made
HIGH = 0.15  # GPT-2 paper, section 4: LAMBADA's items of more than 15 % overlap are set apart


class OverlapConfig(Config):
    """What counts as the same, and which documents are for training."""

    ngram: int = Field(default=8, ge=1)  # GPT-2 paper, section 4
    """Words in an n-gram."""

    false_positives: float = Field(default=1e-8, gt=0, lt=1)  # GPT-2 paper, section 4
    """Upper bound of the Bloom filter's rate of false positives."""

    random_strings: int = Field(default=1_000_000, ge=0)  # GPT-2 paper, section 4: 1M, no hit
    """Strings looked up to check that bound."""

    keep_filter: bool = False
    """Keep the filter beside the table, 38 bits for each 8-gram, to look up more texts in it."""

    tokens: TokensConfig = TokensConfig()
    """How the corpus was split: only its training documents count."""


@dataclass(frozen=True)
class Overlap:
    """One data set's overlap; shares are None where there is nothing to compare."""

    task: str
    split: str
    items: int
    ngrams: int
    corpus: float | None
    """Share of the n-grams found in the corpus' training documents."""
    own_train: float | None
    """Share of the n-grams found in the data set's own training split."""
    items_without_ngrams: int
    items_with_any: int
    items_over_15_percent: int


def overlap_table(
    documents: Path,
    data: Path,
    tasks: Sequence[Task],
    out: Path,
    config: OverlapConfig,
    *,
    spread: Spread = one_by_one,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write overlap.json, overlap.csv (GPT-2 paper, Table 6) and items.jsonl.zst; return counts.

    Args:
        data: the folder the tasks' rows lie in.
    """
    found = build_filter(documents, out / FILTER, config, spread=spread, progress=progress)
    hits = random_hits(found, config)
    results: list[Overlap] = []
    items: list[Row] = []
    for done, task in enumerate(tasks):
        progress(done, len(tasks), f"looking up {task.name}")
        result, rows = task_overlap(task, data, found, config)
        results.append(result)
        items += rows
    counts = {
        "distinct_ngrams": sum(found.facts["distinct"]),
        "filter_bytes": sum(found.facts["bytes"]),
        "random_strings": config.random_strings,
        "random_hits": hits,
    }
    rows = [asdict(result) for result in results]
    write_jsonl(out / "items.jsonl.zst", items)
    write_bytes(out / "overlap.csv", as_csv(results).encode())
    write_json(out / "overlap.json", {"filter": counts, "data_sets": rows})
    if not config.keep_filter:
        shutil.rmtree(out / FILTER)
    log.info("overlap: %s", counts)
    return counts | {"data_sets": len(results), "items": len(items)}


def task_overlap(
    task: Task, data: Path, found: Filter, config: OverlapConfig
) -> tuple[Overlap, list[Row]]:
    """Return a task's overlap on the split that is scored, and a row for each item."""
    split = asked_split(task)
    rows = load_rows(task, data, split)
    grams = [ngrams_of(strings_of(row, task), config.ngram) for row in rows]
    every = np.concatenate(grams)
    ends = np.cumsum([len(x) for x in grams])
    in_corpus = _per_item(found.contains(every), ends)
    in_train = None
    if "train" in task.splits:
        train = (text for row in load_rows(task, data, "train") for text in strings_of(row, task))
        in_train = _per_item(np.isin(every, ngrams_of(train, config.ngram)), ends)
    sizes = np.diff(ends, prepend=0)
    items: list[Row] = [
        {
            "task": task.name,
            "id": str(row.get("id", number)),
            "ngrams": int(sizes[number]),
            "in_corpus": int(in_corpus[number]),
            "in_own_train": None if in_train is None else int(in_train[number]),
        }
        for number, row in enumerate(rows)
    ]
    result = Overlap(
        task=task.name,
        split=split,
        items=len(rows),
        ngrams=len(every),
        corpus=_share(in_corpus, len(every)),
        own_train=None if in_train is None else _share(in_train, len(every)),
        items_without_ngrams=int((sizes == 0).sum()),
        items_with_any=int((in_corpus > 0).sum()),
        items_over_15_percent=int((in_corpus > HIGH * sizes).sum()),
    )
    return result, items


def asked_split(task: Task) -> str:
    """Return the split that a task's headline is of."""
    return task.scored[0] if task.splits else "test"


def strings_of(row: Row, task: Task) -> Iterator[str]:
    """Yield every text in the columns a task reads, however deep (turns, answers)."""
    waiting = [row[column] for column in reversed(task.columns)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting += reversed(list(value.values()))
        elif isinstance(value, list):
            waiting += reversed(value)


def ngrams_of(texts: Iterable[str], n: int) -> np.ndarray:
    """Return the hashes of the n-grams of texts; none reaches from one text into the next."""
    parts = [ngram_hashes(alphanumeric_words(text).hashes, n) for text in texts]
    return np.concatenate([np.empty(0, dtype=np.uint64), *parts])


def build_filter(
    documents: Path,
    out: Path,
    config: OverlapConfig,
    *,
    spread: Spread = one_by_one,
    progress: Progress = silent,
) -> Filter:
    """Build the filter of the training documents' n-grams in `out`.

    First a file of sorted n-grams for each shard, then each part of the filter from its stretch of
    all these files: memory for one shard or one part at a time, 8 bytes of disk for an n-gram.
    """
    work = out / WORK
    work.mkdir(parents=True, exist_ok=True)
    shards = shard_paths(documents)
    sizes = []
    for size in spread(partial(_shard_ngrams, work=work, config=config), shards):
        sizes.append(size)
        progress(len(sizes), len(shards), "shards read")
    parts = max(-(-sum(sizes) // PART), 1)
    files = [work / f"{shard.name}.npy" for shard in shards]
    part = partial(_part, files=files, parts=parts, false_positives=config.false_positives)
    facts = {"false_positives": config.false_positives, "ngram": config.ngram}
    write_filter(out, spread(part, range(parts)), facts)
    shutil.rmtree(work)
    return Filter.open(out)


def random_hits(found: Filter, config: OverlapConfig, seed: int = 0) -> int:
    """Return how many n-grams of random words the filter takes for known (GPT-2: 0 of 1M)."""
    rng, left, hits = np.random.default_rng(seed), config.random_strings, 0
    while left > 0:
        size = min(left, 10_000)
        letters = rng.integers(ord("a"), ord("z") + 1, (size + config.ngram - 1, 9), dtype=np.uint8)
        letters[:, 8] = ord(" ")
        text = letters.tobytes().decode("ascii")
        hits += int(found.contains(ngrams_of([text], config.ngram)).sum())
        left -= size
    return hits


def as_csv(results: Sequence[Overlap]) -> str:
    """Return the paper's Table 6: data sets side by side, percentages, two rows."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["% of test n-grams found in", *(result.task for result in results)])
    for title, name in (("its own train split", "own_train"), ("the corpus, train", "corpus")):
        shares = [getattr(result, name) for result in results]
        writer.writerow([title, *("" if x is None else f"{100 * x:.2f}" for x in shares)])
    return file.getvalue()


def _shard_ngrams(shard: Path, work: Path, config: OverlapConfig) -> int:
    """Write the distinct n-grams of a shard's training documents, sorted; return how many."""
    path = work / f"{shard.name}.npy"
    if not path.exists():  # else an earlier try has written it
        grams = distinct(ngrams_of(training_texts(shard, config.tokens), config.ngram))
        with atomic_write(path) as file:
            np.save(file, grams)
    return len(np.load(path, mmap_mode="r"))


def _part(
    number: int, files: list[Path], parts: int, false_positives: float
) -> tuple[int, np.ndarray]:
    """Return the distinct n-grams of one part of the filter, counted, and its bits."""
    bounds = part_bounds(parts)
    pieces = []
    for path in files:
        grams = np.load(path, mmap_mode="r")
        start = int(np.searchsorted(grams, bounds[number]))
        end = int(np.searchsorted(grams, bounds[number + 1])) if number + 1 < parts else len(grams)
        pieces.append(np.asarray(grams[start:end]))
    grams = distinct(np.concatenate(pieces))
    return len(grams), fill(grams, false_positives)


def _per_item(found: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return how many n-grams of each item were found."""
    sums = np.append(0, np.cumsum(found))  # (ngrams + 1,)
    return np.diff(sums[ends], prepend=0)


def _share(found: np.ndarray, total: int) -> float | None:
    """Return the share of n-grams found, None of none."""
    return float(found.sum()) / total if total else None
