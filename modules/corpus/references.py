"""Texts that the corpus must not hold: evaluation sets, and Wikipedia wherever it is copied.

GPT-2's paper leaves out Wikipedia, "a common data source for other datasets" (section 2.1), and
measures how much of the evaluation sets is in WebText (section 4). A reference is the sorted set
of its texts' 8-grams, normalised as for that measurement (overlap.py), exact since it is small;
a document that shares too much of its own 8-grams with it goes.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from modules.corpus.document import Document, read_documents
from modules.corpus.filters import from_wikipedia
from modules.corpus.ngrams import distinct
from modules.corpus.overlap import ngrams_of, strings_of
from modules.files import atomic_write, read_jsonl
from modules.task import Task, load_rows

Reference = Literal["evaluation", "wikipedia"]
NGRAM = 8  # GPT-2 paper, section 4


@dataclass(frozen=True)
class References:
    """Files that write_reference wrote; none where a rule is not used."""

    evaluation: Path | None = None
    wikipedia: Path | None = None


NO_REFERENCES = References()


def write_references(
    out: Path,
    *,
    evaluation: Sequence[Task] = (),
    data: Path = Path(),
    wikipedia: Sequence[Path] = (),
) -> References:
    """Write the references that rules of a recipe need, evaluation.npy and wikipedia.npy.

    Args:
        evaluation: tasks whose test rows must not be in the corpus, below the folder `data`.
        wikipedia: directories of documents, or JSON lines files with a `text`.
    """
    paths = {}
    if evaluation:
        paths["evaluation"] = out / "evaluation.npy"
        write_reference(evaluation_texts(evaluation, data), paths["evaluation"])
    if wikipedia:
        paths["wikipedia"] = out / "wikipedia.npy"
        write_reference(wikipedia_texts(wikipedia), paths["wikipedia"])
    return References(**paths)


def write_reference(texts: Iterable[str], path: Path) -> int:
    """Write the sorted distinct 8-grams of texts (NAME.npy); return how many.

    Raises:
        ValueError: there is none: no text has 8 words.
    """
    grams = distinct(ngrams_of(texts, NGRAM))
    if not len(grams):
        raise ValueError(f"{path.stem}: no reference text has {NGRAM} words; check the paths")
    with atomic_write(path) as file:
        np.save(file, grams)
    return len(grams)


def evaluation_texts(tasks: Sequence[Task], data: Path) -> Iterator[str]:
    """Yield every text that tasks ask or score on their test splits."""
    for task in tasks:
        for row in load_rows(task, data, "test"):
            yield from strings_of(row, task)


def wikipedia_texts(sources: Sequence[Path]) -> Iterator[str]:
    """Yield the texts of directories of documents and of JSON lines files with a `text`.

    Of documents with an address only those on Wikipedia's hosts count, so that text extracted from
    any crawl may be given. (A corpus' own has none: its links leave Wikipedia out.)

    Raises:
        ValueError: a row has no text.
    """
    documents = chain.from_iterable(map(_documents, sources))
    return (d.text for d in documents if not d.url or from_wikipedia(d) is not None)


def _documents(source: Path) -> Iterator[Document]:
    if source.is_dir():
        yield from read_documents(source)
        return
    for number, row in enumerate(read_jsonl(source), 1):
        if not isinstance(row.get("text"), str):
            raise ValueError(f"{source}, row {number}: column 'text' is missing or no text")
        yield Document(id=f"row {number}", text=row["text"], url=str(row.get("url") or ""))


def tag_overlap(document: Document, *, reference: Reference, grams: np.ndarray) -> Document:
    """Note in meta the share of a document's 8-grams that a reference holds, where it is any."""
    share = round(overlap(document.text, grams), 4)
    return replace(document, meta=document.meta | {f"in_{reference}": share}) if share else document


def overlap(text: str, grams: np.ndarray) -> float:
    """Return the share of a text's 8-grams among sorted ones; 0 for a text without any."""
    own = ngrams_of([text], NGRAM)
    places = np.minimum(np.searchsorted(grams, own), len(grams) - 1)
    return float((grams[places] == own).mean()) if len(own) else 0.0


def in_evaluation_set(document: Document, *, max_share: float) -> str | None:
    """Drop documents that share too many 8-grams with evaluation sets (GPT-2 paper, section 4)."""
    return _too_much(document.meta.get("in_evaluation", 0.0), max_share)


def wikipedia_copy(document: Document, *, max_share: float) -> str | None:
    """Drop copies of Wikipedia's text on other hosts (the reason of GPT-2 paper, section 2.1)."""
    return _too_much(document.meta.get("in_wikipedia", 0.0), max_share)


def _too_much(share: float, max_share: float) -> str | None:
    return f"{share:.2f} of its {NGRAM}-grams" if share > max_share else None
