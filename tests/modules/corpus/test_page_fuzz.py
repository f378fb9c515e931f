"""Mutated WARC files and pages, and pages made to break parsers: typed outcomes only, none lost.

The quick part mutates 36,000 WARC records and 14,000 pages (about 15 s). `pytest -m slow` on this
file does 1,000,000 (about 10 minutes) and puts 40 bombs through a pool (some minutes).
"""

import gzip
import random
import zlib
from collections import Counter
from pathlib import Path

import pytest

from modules.corpus.document import read_documents
from modules.corpus.extract import ExtractConfig, extract_text
from modules.corpus.pages import PagesConfig, select_pages
from modules.corpus.warc import Capture, Damage, read_body, read_captures
from modules.files import read_jsonl
from modules.parallel import one_by_one, processes

REASONS = {  # all that may be said of a page that gives no document
    "bad-encoding",
    "empty",
    "extract-crash",
    "extract-memory",
    "extract-timeout",
    "not-html",
    "only-links",
    "too-short",
    "too_large_decoded",
    "unknown-encoding",
}
DAMAGES = {
    "bad-compression",
    "bad-header",
    "bad-http-header",
    "digest-mismatch",
    "empty",
    "not-a-warc",
    "truncated",
}
SPLICES = [
    *(b"<", b">", b"</", b"/>", b"&", b";", b'"', b"\x00", b"\xff\xfe", b"\xc3", b"\xed\xa0\x80"),
    *(b"<svg>", b"<template>", b"<math>", b"<table>", b"<select>", b"</body>", b"<plaintext>"),
    *(b"<script>", b"<!--", b"-->", b"<![CDATA[", b"]]>", b"<?xml ", b"<noscript>", b"<textarea>"),
    *(b"&#xd800;", b"&#x110000;", b"&#0;", b"&NotEqualTilde;", b"&amp", b"<a href=", b"<frameset>"),
    *(b"<meta charset=utf-16>", b"<meta charset=iso-2022-jp>", b"\x1b$B", b"\r\n\r\n", b"WARC/1.0"),
    *(b"Content-Length: 9", b"\n: x\n", b"HTTP/1.1 200\r\n", b"\x1f\x8b\x08", b" " * 99, b"9" * 30),
]


def mutate(rng: random.Random, data: bytes, most: int = 8) -> bytes:
    """Cut, repeat, flip and splice in a few places."""
    page = bytearray(data)
    for _ in range(rng.randrange(1, most + 1)):
        at = rng.randrange(len(page) + 1)
        match rng.randrange(4):
            case 0:
                page[at : at + rng.randrange(9)] = rng.choice(SPLICES)
            case 1:
                page[at:at] = page[at : at + rng.randrange(200)]
            case 2:
                del page[at : at + rng.randrange(60)]
            case 3 if at < len(page):
                page[at] ^= 1 << rng.randrange(8)
    return bytes(page)


def record(url: str, body: bytes, headers: bytes = b"Content-Type: text/html\r\n") -> bytes:
    http = b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n" + body
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\n"
        f"WARC-Date: 2019-01-01T00:00:00Z\r\nWARC-Record-ID: <urn:uuid:1>\r\n"
        f"Content-Type: application/http\r\nContent-Length: {len(http)}\r\n\r\n"
    )
    return head.encode() + http + b"\r\n\r\n"


def run(folder: Path, warc: Path, urls: list[str], spread=one_by_one, **config):
    """Take links through pages and extraction; return the reasons of all that did not arrive."""
    pages, text = folder / "pages", folder / "text"
    for path in (pages, text):
        path.mkdir(exist_ok=True)
        for old in path.glob("*.zst"):
            old.unlink()
    links = ({"url": url} for url in urls)
    selected = select_pages(links, [warc], folder, pages, PagesConfig(), spread=spread)
    extracted = extract_text(pages, folder, text, ExtractConfig(**config), spread=spread)
    rejected = {row["reason"] for row in read_jsonl(pages / "rejected.jsonl.zst")}
    dropped = [row for path in text.glob("dropped-*") for row in read_jsonl(path)]
    assert rejected <= DAMAGES | {"malformed-url", "not-http", "long-url"}
    assert selected["links"] == len(urls) == selected["pages"] + selected["dropped"]
    assert selected["pages"] == extracted["pages"] == extracted["documents"] + len(dropped)
    kept = {document.url for document in read_documents(text)}
    lost = {row["url"] for row in read_jsonl(pages / "dropped.jsonl.zst")}
    assert kept | lost | {row["url"] for row in dropped} == set(urls)
    for document in read_documents(text):
        assert document.text.encode()
        assert document.meta["n_replaced"] >= 0
    return Counter(row["reason"] for row in dropped)


# --- WARC records ---------------------------------------------------------------------------------


def fuzz_records(folder: Path, seed: int, files: int) -> None:
    """Damage a few of 30 records in each file; all others must be there, all places typed."""
    rng = random.Random(seed)
    path = folder / "a.warc"
    for _ in range(files):
        packed = gzip.compress if rng.randrange(2) else bytes
        urls = [f"https://h.example/{number}" for number in range(30)]
        members = [packed(record(url, b"<p>text " * rng.randrange(40))) for url in urls]
        harmed = set(rng.sample(range(30), rng.randrange(1, 4)))
        for number in harmed:
            members[number] = mutate(rng, members[number], 3)
        path.write_bytes(b"".join(members))
        found = set()
        for item in read_captures(path):
            if isinstance(item, Damage):
                assert item.reason in DAMAGES, item
                continue
            found.add(item.url)
            body = read_body(path, offset=item.offset, index=item.index, limit=10**6)
            assert isinstance(body.data, bytes)
        missing = set(range(30)) - harmed - {urls.index(url) for url in found & set(urls)}
        assert not missing, (seed, harmed, missing)


def test_mutated_records(tmp_path):
    fuzz_records(tmp_path, 0, files=1200)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_mutated_records(tmp_path):
    """Takes about 3 minutes."""
    for seed in range(1, 15):
        fuzz_records(tmp_path, seed, files=1000)


# --- pages ----------------------------------------------------------------------------------------


def seeds(web: Path) -> list[bytes]:
    """Return pieces of stored pages, some 2,000 bytes each."""
    path = web / "pages-00000.warc.gz"
    items = (item for item in read_captures(path) if isinstance(item, Capture))
    places = [(item.offset, item.index) for item in items if item.status == 200][:40]
    bodies = [read_body(path, offset=at, index=i, limit=30_000).data for at, i in places]
    return [body[:700] + body[len(body) // 2 :][:1300] for body in bodies if body]


def answer(rng: random.Random, page: bytes) -> tuple[bytes, bytes]:
    """Return header fields and the body as a server may have sent it, rightly or wrongly."""
    charset = rng.choice(["utf-8", "iso-8859-1", "utf-16", "shift_jis", "x-none", "utf-7", "hz"])
    headers = [
        rng.choice(["X: y", "Content-Type: text/html", f"Content-Type: ; charset={charset}"])
    ]
    coding = rng.choice(["", "", "", "gzip", "deflate", "br", "zstd", "gzip, gzip"])
    if coding:
        headers.append(f"Content-Encoding: {coding}")
        page = rng.choice([gzip.compress, zlib.compress, bytes])(page)
        page = mutate(rng, page, 2) if rng.randrange(3) == 0 else page
    if rng.randrange(8) == 0:
        headers.append("Transfer-Encoding: chunked")
        page = b"%x\r\n%s\r\n0\r\n\r\n" % (len(page) + rng.choice([0, 0, 1]), page)
    return "".join(f"{header}\r\n" for header in headers).encode(), page


def fuzz_pages(folder: Path, web: Path, seed: int, count: int) -> Counter[str]:
    """Take mutated pages through the whole path."""
    rng = random.Random(seed)
    pages = seeds(web)
    urls = [f"https://h.example/{number}" for number in range(count)]
    with (folder / "a.warc").open("wb") as file:
        for url in urls:
            headers, body = answer(rng, mutate(rng, rng.choice(pages)))
            file.write(record(url, body, headers))
    return run(folder, folder / "a.warc", urls)


def test_mutated_pages(data, tmp_path):
    reasons = fuzz_pages(tmp_path, data / "web", 0, 14_000)
    assert set(reasons) <= REASONS
    assert reasons["extract-crash"] + reasons["extract-memory"] + reasons["extract-timeout"] == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_mutated_pages(data, tmp_path):
    """Takes about 7 minutes."""
    for seed in range(1, 30):
        assert set(fuzz_pages(tmp_path, data / "web", seed, 20_000)) <= REASONS


# --- bombs ----------------------------------------------------------------------------------------

N = 200_000
WORDS = b"A page with enough words in it to be kept as a document of the corpus. "
BOMBS = {
    "nested-div": b"<div>" * N + WORDS,
    "nested-span": b"<p>" + b"<span>" * N + WORDS,
    "nested-b": b"<b>" * 20_000 + WORDS,
    "nested-a": b"<a href=/>" * 20_000 + WORDS,
    "nested-font": b"<font size=1><p>" * 5_000 + WORDS,
    "nested-table": b"<table><tr><td>" * 20_000 + WORDS,
    "nested-list": b"<ul><li>" * 50_000 + WORDS,
    "nested-dl": b"<dl><dd>" * 50_000 + WORDS,
    "nested-form": b"<form><div>" * 50_000 + WORDS,
    "nested-button": b"<button><p>" * 20_000 + WORDS,
    "nested-select": b"<select><option>" * 50_000 + WORDS,
    "nested-frames": b"<div class=sidebar><p>word " * 20_000,
    "nested-nav": b"<div class=nav><a href=/>x</a>" * 20_000 + WORDS,
    "nested-svg": b"<svg>" * N + WORDS,
    "nested-math": b"<math><mi>" * 50_000 + WORDS,
    "nested-object": b"<object>" * 50_000 + WORDS,
    "svg-template": b"<svg><template>\n" + WORDS,  # crashed an older Resiliparse
    "svg-templates": b"<svg><template>\n" * 20_000 + WORDS,
    "templates": b"<template>" * 50_000 + WORDS,
    "foreign-object": b"<svg><foreignObject><p>" * 20_000 + WORDS,
    "end-tags": b"</p></div></table></svg></template>" * 50_000 + WORDS,
    "end-brs": b"</br>" * N + WORDS,
    "misnested": b"<b><i><p></b></i>" * 20_000 + WORDS,
    "adoption": b"<a><b><div></a></b>" * 5_000 + WORDS,
    "foster": b"<table>" + b"<b>x<tr>" * 20_000 + WORDS,
    "attributes": b"<p " + b" ".join(b"a%d=1" % i for i in range(N)) + b">" + WORDS,
    "same-attribute": b"<p " + b"a=1 " * N + b">" + WORDS,
    "huge-attribute": b'<p title="' + b"x" * 4_000_000 + b'">' + WORDS,
    "huge-class": b'<div class="' + b"nav-" * 500_000 + b'">' + WORDS,
    "huge-href": b"<a href=" + b"/x" * 1_000_000 + b">x</a>" + WORDS,
    "huge-tag": b"<" + b"x" * 4_000_000 + b">" + WORDS,
    "open-quote": b'<a href="' + b"<p>" * 1_000_000,
    "open-comment": WORDS + b"<!--" + b"-" * 4_000_000,
    "comments": b"<!---->" * 500_000 + WORDS,
    "cdata": b"<svg><![CDATA[" + b"]]" * 1_000_000 + WORDS,
    "entities": b"&NotEqualTilde;" * 300_000,
    "open-entities": b"&am" * 1_500_000,
    "number-entities": b"&#x110000;&#xd800;&#0;" * N,
    "links": b"<ul>" + b"<li><a href=/>x</a>" * N + b"</ul>" + WORDS,
    "paragraphs": (b"<p>" + WORDS) * 50_000,
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("extractor", ["fast", "quality"])
def test_bombs_harm_nobody_else(tmp_path, extractor):
    """Takes 1 to 4 minutes each. A pool whose process dies would raise BrokenProcessPool."""
    assert len(BOMBS) == 40
    page = b"<p>%s</p>" % WORDS
    urls, data = [], b""
    for name, bomb in BOMBS.items():
        for url, body in (
            (f"https://h.example/{name}", bomb),
            (f"https://h.example/{name}-2", page),
        ):
            urls.append(url)
            data += record(url, body)
    (tmp_path / "a.warc").write_bytes(data)
    with processes(2) as spread:
        reasons = run(
            tmp_path, tmp_path / "a.warc", urls, spread, shard_pages=10, extractor=extractor
        )
    assert set(reasons) <= REASONS
    kept = {document.url for document in read_documents(tmp_path / "text")}
    assert {f"https://h.example/{name}-2" for name in BOMBS} <= kept
