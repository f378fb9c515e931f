"""The pages both sides read: WARC files as Common Crawl lays them out, once or many times over.

Of the sample's records those answered with 200 and HTML are taken, without wikipedia.org's, which
textmill refuses before it reads them. Each gets the payload type that Common Crawl writes; without
it datatrove guesses and loses a quarter of the pages. The first copy is otherwise byte for byte
the record; in further copies every word of four letters or more that is not among the most
frequent ones is replaced by another of its language that is about as frequent, by the same one
each time. So a copy has as many duplicates in itself as the original, and none in the original.
"""

import gzip
import json
import random
import re
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from fastwarc.warc import ArchiveIterator, WarcRecordType
from resiliparse.parse.lang import detect_fast

from modules.corpus.decode import clean_text, decode_body, decode_text
from modules.corpus.main_text import main_text
from modules.corpus.warc import Body
from modules.files import write_jsonl

LANGUAGES = ["en", "fr", "es"]  # of the sample
COMMON = 100  # words of a language that no copy changes, so that it stays recognisable
ALIKE = 50  # a word is replaced by one of so many neighbours in the order of frequency
WORDS = re.compile(
    r"<(script|style)\b.*?</\1\s*>|<!--.*?-->|<[^>]*>|&#?\w+;|([^\W\d_]{4,})",
    re.DOTALL | re.IGNORECASE,
)
RECORD = """WARC/1.0\r
WARC-Type: response\r
WARC-Record-ID: <urn:uuid:{id}>\r
WARC-Target-URI: {url}\r
WARC-Date: {date}\r
WARC-Identified-Payload-Type: text/html\r
Content-Type: application/http; msgtype=response\r
Content-Length: {length}\r
\r
"""
PLAIN_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"


@dataclass(frozen=True)
class Page:
    """A stored answer: its HTTP block as it is, and its HTML decoded."""

    url: str
    date: str
    block: bytes
    html: str
    language: str


def read_pages(warcs: list[Path]) -> Iterator[Page]:
    """Yield the HTML pages answered with 200, each address once."""
    seen: set[str] = set()
    for path in warcs:
        with path.open("rb") as file:
            responses = WarcRecordType.response
            for record in ArchiveIterator(file, record_types=responses, parse_http=False):
                url, date = record.headers["WARC-Target-URI"], record.headers["WARC-Date"]
                block = record.reader.read()
                html = html_of(block)
                if html and url not in seen and ".wikipedia.org/" not in url:
                    seen.add(url)
                    language = detect_fast(main_text(html).text, langs=LANGUAGES)[0]
                    yield Page(url, date, block, html, language)


def html_of(block: bytes) -> str:
    """Return the decoded HTML of an HTTP block, or nothing for any other answer."""
    head, _, data = block.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    fields = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines)}
    kind = fields.get("content-type", "")
    if status.split()[1] != "200" or not kind.startswith(("text/html", "application/xhtml+xml")):
        return ""
    codings = fields.get("content-encoding", ""), fields.get("transfer-encoding", "")
    return decode_text(decode_body(Body(kind, *codings, data), 2**26), kind).text


def write(warcs: list[Path], folder: Path, copies: int, limit: int | None) -> None:
    """Write the pages so many times, a WARC file a copy, and a link to each."""
    originals = list(islice(read_pages(warcs), limit))
    folder.mkdir(parents=True, exist_ok=True)
    urls: list[str] = []
    for copy in range(copies):
        changed = replacements(originals, copy) if copy else {}
        with (folder / f"pages-{copy:05d}.warc.gz").open("wb") as file:
            for page in originals:
                url, block = page.url, page.block
                if copy:
                    url = url.replace("://", f"://copy{copy}.", 1)
                    block = PLAIN_HEAD + reworded(page.html, changed[page.language]).encode()
                file.write(gzip.compress(record(url, page.date, block)))
                urls.append(url)
    write_jsonl(folder / "links.jsonl.zst", ({"url": url} for url in urls))


def record(url: str, date: str, block: bytes) -> bytes:
    """Return a WARC response record."""
    name = uuid.uuid5(uuid.NAMESPACE_URL, url)
    head = RECORD.format(id=name, url=url, date=date, length=len(block))
    return head.encode() + block + b"\r\n\r\n"


def replacements(pages: list[Page], seed: int) -> dict[str, dict[str, str]]:
    """Return for each language what its words become: a shuffle among words about as frequent."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for page in pages:
        counts[page.language].update(m[2].lower() for m in WORDS.finditer(page.html) if m[2])
    order = random.Random(seed)
    tables: dict[str, dict[str, str]] = {}
    for language, count in counts.items():
        words = [word for word, _ in count.most_common()][COMMON:]
        groups = [words[i : i + ALIKE] for i in range(0, len(words), ALIKE)]
        tables[language] = {
            old: new
            for group in groups
            for old, new in zip(group, order.sample(group, len(group)), strict=True)
        }
    return tables


def reworded(html: str, table: dict[str, str]) -> str:
    """Return a page with the words of its text replaced, its tags untouched."""

    def replace(match: re.Match[str]) -> str:
        word = match[2]
        if not word:
            return match[0]
        new = table.get(word.lower(), word)
        return new.capitalize() if word[0].isupper() else new

    return WORDS.sub(replace, html)


def write_plain(folder: Path) -> None:
    """Write what single steps start from: decoded HTML, and its text, a JSON line a page."""
    with (folder / "html.jsonl").open("w") as html, (folder / "text.jsonl").open("w") as text:
        for page in read_pages(sorted(folder.glob("*.warc.gz"))):
            html.write(json.dumps({"html": page.html}) + "\n")
            text.write(json.dumps({"text": clean_text(main_text(page.html).text)}) + "\n")
