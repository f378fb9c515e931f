"""How close extractors come to the reference texts, source by source, and how fast they are.

    python -m bench.extraction [WEB]

WEB is a folder with pages-*.warc.gz, truth.jsonl.zst and main_text.jsonl.zst (data/web if not
given). Scores compare bags of word tokens, as SQuAD's F1 does (Rajpurkar et al. 2016): the mean
over pages. All extractors read every page in turn, in this process. Those that are not installed
(readability-lxml) are left out. Printed as Markdown.
"""

import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import trafilatura
from resiliparse.extract.html2text import extract_plain_text

from modules.corpus.addresses import canonical_url
from modules.corpus.decode import clean_text, decode_body, decode_text
from modules.corpus.main_text import main_text
from modules.corpus.quality import quality_text
from modules.corpus.warc import Capture, read_body, read_captures
from modules.files import read_jsonl

LIMIT = 5 * 2**20
Extractor = Callable[[str], str | None]


class Page(NamedTuple):
    """A stored page and its reference text."""

    source: str
    html: str
    reference: str


class Score(NamedTuple):
    """Agreement of two bags of words."""

    precision: float
    recall: float
    f1: float


def datatrove_settings(html: str, *, fast: bool = False) -> str | None:
    """Extract as datatrove does (its Trafilatura block's defaults)."""
    return trafilatura.extract(
        html, favor_precision=True, include_comments=False, deduplicate=True, fast=fast
    )


def extractors() -> dict[str, Extractor]:
    """Return all extractors that are installed, by name."""
    found: dict[str, Extractor] = {
        "textmill fast": lambda html: clean_text(main_text(html).text),
        "textmill quality": lambda html: clean_text(quality_text(html).text),
        "trafilatura, datatrove's settings": datatrove_settings,
        "trafilatura": trafilatura.extract,
        "trafilatura fast": lambda html: datatrove_settings(html, fast=True),
        "resiliparse": lambda html: extract_plain_text(html, main_content=True),
    }
    if find_spec("readability"):
        found["readability"] = readability
    return found


def readability(html: str) -> str:
    """Extract with readability-lxml."""
    from lxml.html import fromstring
    from readability import Document

    return fromstring(Document(html).summary()).text_content()


def pages(web: Path) -> Iterator[Page]:
    """Yield the stored pages that have a reference text."""
    references = {row["url"]: row["main_text"] for row in read_jsonl(web / "main_text.jsonl.zst")}
    sources = {row["url"]: row.get("source", "") for row in read_jsonl(web / "truth.jsonl.zst")}
    for path in sorted(web.glob("pages-*.warc.gz")):
        for item in read_captures(path):
            if not isinstance(item, Capture) or item.status != 200:
                continue
            url = canonical_url(item.url)
            if url in references:
                body = read_body(path, offset=item.offset, index=item.index, limit=LIMIT)
                html = decode_text(decode_body(body, LIMIT), body.content_type).text
                yield Page(sources[url], html, references[url])


def bag(text: str) -> Counter[str]:
    """Return the words of a text."""
    return Counter(re.findall(r"\w+", text.lower()))


def score(found: str, reference: str) -> Score:
    """Compare an extracted text with the reference."""
    a, b = bag(found), bag(reference)
    same = (a & b).total()
    return Score(
        same / max(1, a.total()),
        same / max(1, b.total()),
        2 * same / max(1, a.total() + b.total()),
    )


def mean(values: list[float]) -> float:
    """Return the mean."""
    return sum(values) / len(values)


def row(*cells: object) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def main(web: Path) -> None:
    """Score all extractors on all pages and print the tables."""
    names = extractors()
    scores: dict[str, dict[str, list[Score]]] = {name: defaultdict(list) for name in names}
    seconds: Counter[str] = Counter()
    for extract in names.values():  # what is loaded on first use is no page's time
        extract("<p>A page.</p>")
    for page in pages(web):
        for name, extract in names.items():
            start = time.process_time()
            text = extract(page.html) or ""
            seconds[name] += time.process_time() - start
            scores[name][page.source].append(score(text, page.reference))
    sources = sorted(scores["trafilatura"])
    everything = {name: [s for source in sources for s in scores[name][source]] for name in names}
    n_pages = len(everything["trafilatura"])
    print(row("extractor", "precision", "recall", "F1", "pages/cpu-s"))
    print(row("---", *["---:"] * 4))
    for name, all_ in everything.items():
        columns = [f"{mean(list(column)):.4f}" for column in zip(*all_, strict=True)]
        print(row(name, *columns, f"{n_pages / seconds[name]:.0f}"))
    print(f"\n{row('F1 by source', 'pages', *names)}")
    print(row("---", *["---:"] * (1 + len(names))))
    for source in sources:
        cells = [f"{mean([s.f1 for s in scores[name][source]]):.4f}" for name in names]
        print(row(source, len(scores["trafilatura"][source]), *cells))
    cells = [f"{mean([s.f1 for s in all_]):.4f}" for all_ in everything.values()]
    print(row("all", n_pages, *cells))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "data/web"))
