"""Decoded HTML to its main text; characters of text."""

from collections.abc import Callable
from pathlib import Path

from common import Prepare, Work, load


def extracting(extract: Callable[[str], str | None]) -> Prepare:
    """Make a step of a function from HTML to text; a page it fails on has none."""

    def prepare(folder: Path, vocabulary: Path) -> Work:
        pages = load(folder, "html")
        extract(pages[0])

        def run() -> int:
            total = 0
            for html in pages:
                try:
                    total += len(extract(html) or "")
                except Exception:  # a library may raise anything; that page's text is empty
                    continue
            return total

        return run

    return prepare


def textmill_text(html: str) -> str:
    from modules.corpus.decode import clean_text
    from modules.corpus.main_text import main_text

    return clean_text(main_text(html).text)


def resiliparse_text(html: str) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    return extract_plain_text(html, main_content=True)


def trafilatura_text(html: str) -> str | None:
    from trafilatura import extract

    return extract(html, include_comments=False, favor_precision=True)


def trafilatura_fast_text(html: str) -> str | None:
    from trafilatura import extract

    return extract(html, include_comments=False, fast=True)


def readability_text(html: str) -> str:
    from lxml.html import fromstring
    from readability import Document

    return fromstring(Document(html).summary()).text_content()


LIBRARIES: dict[str, Prepare] = {
    "textmill": extracting(textmill_text),
    "resiliparse": extracting(resiliparse_text),
    "readability": extracting(readability_text),
    "trafilatura fast": extracting(trafilatura_fast_text),
    "trafilatura": extracting(trafilatura_text),
}
