"""Extraction: quality on the reference texts, encodings, workers that die, shards."""

import gzip
import os
import random
import re
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from modules.corpus.addresses import canonical_url
from modules.corpus.decode import DecodeError, clean_text, decode_body, decode_text
from modules.corpus.document import read_documents
from modules.corpus.extract import ExtractConfig, extract_text
from modules.corpus.main_text import MainText, main_text
from modules.corpus.quality import cut, quality_text
from modules.corpus.warc import Body, Capture, read_body, read_captures
from modules.corpus.worker import Worker
from modules.files import read_jsonl, write_jsonl
from modules.parallel import one_by_one, processes

LIMIT = 5 * 2**20
PARAGRAPH = "<p>A page with enough words in it to be kept as a document of the corpus.</p>"


def ngrams(text: str, n: int) -> Counter[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def f1(found: str, wanted: str, n: int) -> float:
    a, b = ngrams(found, n), ngrams(wanted, n)
    return 2 * (a & b).total() / max(1, a.total() + b.total())


def stored_pages(web: Path, wanted: set[str]):
    """Yield (address, decoded HTML) of stored pages."""
    for path in sorted(web.glob("pages-*.warc.gz")):
        for item in read_captures(path):
            if isinstance(item, Capture) and item.status == 200:
                url = canonical_url(item.url)
                if url in wanted:
                    body = read_body(path, offset=item.offset, index=item.index, limit=LIMIT)
                    yield url, decode_text(decode_body(body, LIMIT), body.content_type).text


def scores(web: Path, extractor: Callable[[str], MainText]) -> list[tuple[float, float]]:
    """Return the word and 5-gram F1 of every page that has a reference."""
    reference = {row["url"]: row["main_text"] for row in read_jsonl(web / "main_text.jsonl.zst")}
    found = [
        (f1(text, reference[url], 1), f1(text, reference[url], 5))
        for url, html in stored_pages(web, set(reference))
        if (text := clean_text(extractor(html).text)) is not None
    ]
    assert len(found) == len(reference) == 158
    return found


def test_main_text_is_close_to_the_reference(data):
    """On these pages trafilatura's own mean word F1 is 0.88, Resiliparse's main_content 0.906."""
    words, runs = zip(*scores(data / "web", main_text), strict=True)
    assert sum(words) / len(words) > 0.98
    assert sum(runs) / len(runs) > 0.975
    assert sum(score < 0.8 for score in words) <= 3


def test_the_quality_option_is_closer(data):
    """Takes about 3 s."""
    fast, _ = zip(*scores(data / "web", main_text), strict=True)
    quality, _ = zip(*scores(data / "web", quality_text), strict=True)
    assert sum(quality) / len(quality) > max(0.983, sum(fast) / len(fast))


def test_the_quality_option_cuts_what_only_one_extractor_saw():
    ours = "Home\n\nA title\n\nOne two three four.\ncode()\n\nFive six seven.\n\nPrint\n\nTags"
    theirs = "One two three four.\nFive six seven."
    assert cut(ours, theirs, {("a", "title")}) == (
        "A title\nOne two three four.\ncode()\n\nFive six seven."
    )
    assert cut(ours, "", set()) == ours
    assert cut("Page not found", theirs, set()) == theirs


def test_frames_go_and_prose_stays():
    html = f"""<html lang=en><head><title> A  title </title>
      <meta property="article:published_time" content="2018-03-04T05:06:07Z"></head><body>
      <header class="site-header"><a href=/>Home</a></header>
      <div id=main-menu><ul><li><a href=/a>Alpha</a><li><a href=/b>Beta</a></ul></div>
      <div class="entry-header"><h1>Heading</h1></div>{PARAGRAPH}
      <div class=sidebar><p>A box inside the text is prose, whatever its class is called.</p></div>
      <pre>def f(x):\n    return x</pre><ul><li>One<li>Two</ul>
      <script>evil()</script><footer>Copyright 2019</footer></body></html>"""
    found = main_text(html)
    assert found.title == "A title"
    assert found.date == "2018-03-04T05:06:07Z"
    for part in ("Heading", "enough words", "A box inside", "def f(x):\n    return x", "One"):
        assert part in found.text, part
    for part in ("Home", "Alpha", "evil", "Copyright"):
        assert part not in found.text, part
    assert "\n\n" in found.text


@pytest.mark.parametrize(
    ("data", "content_type", "text", "charset"),
    [
        ("é".encode(), "text/html; charset=utf-8", "é", "utf-8"),
        ("é".encode(), "text/html; charset=iso-8859-1", "é", "utf-8"),
        ("Déjà vu été".encode("latin-1"), "text/html; charset=ISO-8859-1", "Déjà vu été", "cp1252"),
        ("“x”".encode("cp1252"), "text/html; charset=latin1", "“x”", "cp1252"),
        ("<meta charset=koi8-r>привет".encode("koi8-r"), "", "<meta charset=koi8-r>привет", ""),
        ("日本".encode("shift_jis"), "text/html; charset=Shift_JIS", "日本", ""),
        ("日本".encode("iso2022_jp"), "text/html; charset=iso-2022-jp", "日本", ""),
        ("\ufeffé".encode("utf-16-le"), "text/html; charset=utf-8", "é", "utf-16-le"),
        ("é".encode(), "text/html; charset=x-no-such", "é", "utf-8"),
        ("\ufeffé".encode(), "text/html; charset=koi8-r", "é", "utf-8"),  # the mark wins
        ("\ufeffé".encode("utf-16-be"), "", "é", "utf-16-be"),
        ("привет".encode("koi8-r"), "text/html; charset = 'KOI8-R'", "привет", "koi8-r"),
        ("“x”".encode("cp1252"), 'text/html; charset="windows-1252"', "“x”", "cp1252"),
        ("中文".encode("gb18030"), "text/html; charset=gb2312", "中文", ""),
        ("한국어".encode("cp949"), "text/html; charset=ks_c_5601-1987", "한국어", ""),
        ("日本語".encode("euc_jp"), "text/html; charset=x-euc-jp", "日本語", ""),
        ("zażółć".encode("iso8859-2"), "text/html; charset=iso-8859-2", "zażółć", ""),
        ("שלום".encode("cp1255"), "text/html; charset=windows-1255", "שלום", ""),
        (
            "<?xml version='1.0' encoding='iso-8859-5'?><p>да</p>".encode("iso8859-5"),
            "",
            "<?xml version='1.0' encoding='iso-8859-5'?><p>да</p>",
            "",
        ),
        ("déjà vu, été, où".encode("latin-1"), "text/html", "déjà vu, été, où", ""),  # sniffed
        ("<p>déjà".encode(), "text/html; charset=utf-16", "<p>déjà", "utf-8"),  # plainly wrong
        ("<p>déjà".encode("utf-16-le"), "text/html; charset=utf-16", "<p>déjà", ""),
        (b"", "text/html", "", "utf-8"),
    ],
)
def test_charsets(data, content_type, text, charset):
    found = decode_text(data, content_type)
    assert found.text == text
    assert found.n_replaced == 0
    assert charset in ("", found.charset)


def test_bytes_without_a_meaning_are_counted():
    found = decode_text("Ünïcödé ".encode() * 9 + b"\xff\xfe" + "\ufffd".encode(), "charset=utf-8")
    assert found.charset == "utf-8"
    assert found.n_replaced == 2


@pytest.mark.parametrize(
    ("data", "content_type", "n_replaced"),
    [
        ("été ".encode() * 9 + b"\xe9", "charset=utf-8", 1),
        ("日本".encode("shift_jis") * 9 + b"\x81", "charset=shift_jis", 1),
        ("\ufeffab".encode("utf-16-le") + b"\x00", "", 1),
        ("\ufffd\ufffd".encode(), "", 0),  # the page's own
    ],
)
def test_replacements_are_counted(data, content_type, n_replaced):
    assert decode_text(data, content_type).n_replaced == n_replaced


gz = partial(gzip.compress, mtime=0)  # no time in the bytes: they are names of tests
HTML = b"<html>" + b"text " * 1000
CHUNKED = b"10;ext=1\r\n" + HTML[:16] + b"\r\n" + b"%x\r\n" % len(HTML[16:]) + HTML[16:]


def deflate(data: bytes, window: int) -> bytes:
    stream = zlib.compressobj(wbits=window)
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize(
    ("data", "content", "transfer", "result"),
    [
        (HTML, "", "", HTML),
        (gz(HTML), "gzip", "", HTML),
        (gz(HTML[:9]) + gz(HTML[9:]), "x-gzip", "", HTML),
        (deflate(HTML, 15), "deflate", "", HTML),
        (deflate(HTML, -15), "deflate", "", HTML),
        (gz(gz(HTML)), "gzip, gzip", "", HTML),
        (CHUNKED + b"\r\n0\r\n\r\n", "", "chunked", HTML),
        (HTML, "", "chunked", HTML),
        (HTML, "gzip", "", HTML),
        (HTML, "br", "", HTML),
        (CHUNKED[:-9], "", "chunked", "bad-encoding"),
        (gz(HTML)[:-20], "gzip", "", "bad-encoding"),
        (b"\x00garbage", "gzip", "", "bad-encoding"),
        (b"\x00garbage", "lzma", "", "unknown-encoding"),
        (gz(bytes(10**8)), "gzip", "", "too_large_decoded"),
    ],
)
def test_encodings(data, content, transfer, result):
    body = Body("text/html", content, transfer, data)
    if isinstance(result, bytes):
        assert decode_body(body, LIMIT) == result
    else:
        with pytest.raises(DecodeError, match=result):
            decode_body(body, LIMIT)


def test_clean_text():
    dirty = "a\x00b\u200bc\ud800d\r\n\r\n\r\n\u2028e\u0301  \n\tkept\u00a0indent\x1b"
    assert clean_text(dirty) == "abcd\n\n\u00e9\n\tkept indent"
    assert clean_text(dirty).encode()


def record(url: str, body: bytes) -> bytes:
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + body
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\n"
        f"WARC-Date: 2019-01-01T00:00:00Z\r\nWARC-Record-ID: <urn:uuid:1>\r\n"
        f"Content-Type: application/http\r\nContent-Length: {len(http)}\r\n\r\n"
    )
    return head.encode() + http + b"\r\n\r\n"


def make_pages(folder: Path, bodies: list[bytes]) -> Path:
    """Write a WARC file and the pages rows for it; return the pages file."""
    rows, data = [], b""
    for i, body in enumerate(bodies):
        url = f"https://h.example/{i}"
        rows.append({"url": url, "final_url": url, "warc": "a.warc", "offset": len(data)})
        data += record(url, body)
    (folder / "a.warc").write_bytes(data)
    write_jsonl(folder / "pages.jsonl.zst", rows)
    return folder / "pages.jsonl.zst"


def extract(folder: Path, pages: Path, name: str = "out", spread=one_by_one, **config):
    out = folder / name
    out.mkdir(exist_ok=True)
    counts = extract_text(pages, folder, out, ExtractConfig(**config), spread=spread)
    documents = {document.url: document for document in read_documents(out)}
    dropped = {r["url"]: r for path in sorted(out.glob("dropped-*")) for r in read_jsonl(path)}
    assert counts["pages"] == len(documents) + len(dropped)
    assert counts["documents"] == len(documents)
    return counts, documents, dropped


def test_documents_and_shards(tmp_path):
    pages = make_pages(tmp_path, [PARAGRAPH.encode(), b"<p>short", b"", PARAGRAPH.encode() * 2])
    _, documents, dropped = extract(tmp_path, pages, shard_pages=2)
    assert [row["reason"] for row in dropped.values()] == ["too-short", "empty"]
    document = documents["https://h.example/0"]
    assert document.source == "h.example"
    assert document.meta["charset"] == "utf-8"
    assert document.meta["n_replaced"] == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"{k}-0000{i}.jsonl.zst" for k in ("documents", "dropped") for i in (0, 1)]


def test_no_pages_make_an_empty_shard(tmp_path):
    counts, documents, _ = extract(tmp_path, make_pages(tmp_path, []))
    assert counts == {"pages": 0, "documents": 0, "dropped": 0}
    assert documents == {}


def test_finished_shards_are_reused_and_unfinished_ones_done_again(tmp_path):
    pages = make_pages(tmp_path, [PARAGRAPH.encode()] * 4)
    extract(tmp_path, pages, shard_pages=2)
    out = tmp_path / "out"
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    times = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / "dropped-00001.jsonl.zst").unlink()
    (out / ".documents-00001.jsonl.zst.123.tmp").write_bytes(b"half")
    extract(tmp_path, pages, shard_pages=2)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    after = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert {name for name in after if after[name] == times[name]} == {
        "documents-00000.jsonl.zst",
        "dropped-00000.jsonl.zst",
    }


def test_workers_do_not_change_the_output(tmp_path):
    pages = make_pages(tmp_path, [f"{i} {PARAGRAPH * (i + 1)}".encode() for i in range(30)])
    extract(tmp_path, pages, "one", shard_pages=20)
    with processes(3) as three:
        extract(tmp_path, pages, "three", shard_pages=20, spread=three)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "three" / path.name).read_bytes()


def test_a_page_that_takes_too_long_costs_itself_only(tmp_path):
    """Parsing 20,000 open elements named like frames takes quadratic time."""
    slow = b"<div class=sidebar><p>word " * 20000
    pages = make_pages(tmp_path, [PARAGRAPH.encode(), slow, PARAGRAPH.encode()])
    _, documents, dropped = extract(tmp_path, pages, cpu_seconds=0.5)
    assert len(documents) == 2
    assert [row["reason"] for row in dropped.values()] == ["extract-timeout"]


def test_a_page_that_takes_too_much_memory_costs_itself_only(tmp_path):
    big = b"<p>" + b"<b>x</b>" * 500_000
    pages = make_pages(tmp_path, [PARAGRAPH.encode(), big, PARAGRAPH.encode()])
    _, documents, dropped = extract(tmp_path, pages, memory_mb=100)
    assert len(documents) == 2
    assert next(iter(dropped.values()))["reason"] in ("extract-memory", "extract-crash")


def test_pages_that_crashed_parsers_and_mutations_are_accounted_for(tmp_path):
    rng = random.Random(0)
    seeds = [b"<svg><template>\n", b"<" * 9999, b"<a " * 9999, b"<table>" * 999, b"&#xd800;" * 99]
    html = b"<html><body><div class=nav><a href=/>x</a></div><svg><p>" + PARAGRAPH.encode() * 9
    for _ in range(60):
        page = bytearray(html)
        for _ in range(rng.randrange(1, 9)):
            at = rng.randrange(len(page))
            page[at : at + rng.randrange(4)] = rng.choice([b"<", b"</", b"\x00", b"<svg>", b"-->"])
        seeds.append(bytes(page))
    counts, _, dropped = extract(tmp_path, make_pages(tmp_path, seeds))
    assert counts["pages"] == len(seeds)
    assert {row["reason"] for row in dropped.values()} <= {"empty", "too-short", "extract-crash"}


def test_a_worker_killed_from_outside_is_replaced(tmp_path):
    pages = make_pages(tmp_path, [PARAGRAPH.encode()] * 20)
    places = [{"path": str(tmp_path / r["warc"]), "offset": r["offset"]} for r in read_jsonl(pages)]
    with closing(Worker(ExtractConfig().settings)) as worker:
        answers = worker.ask(place | {"index": 0} for place in places)
        found = []
        for number, answer in enumerate(answers):
            found.append(answer["text"])
            if number % 5 == 0:
                os.kill(worker._started().pid, 9)
        assert len(set(found)) == 1
        assert len(found) == 20
        assert worker.close() == 0


def test_workers_see_no_credentials(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "hunter2")
    with closing(Worker(ExtractConfig().settings)) as worker:
        environment = Path(f"/proc/{worker._started().pid}/environ").read_bytes()
    assert b"hunter2" not in environment


def test_mistakes_are_named(tmp_path):
    pages = make_pages(tmp_path, [PARAGRAPH.encode()])
    with pytest.raises(FileNotFoundError, match=r"nothing\.jsonl\.zst"):
        extract(tmp_path, tmp_path / "nothing.jsonl.zst")
    row = next(read_jsonl(pages))
    write_jsonl(pages, [row | {"offset": 7}])
    with pytest.raises(ValueError, match=r"a\.warc, offset 7: no record here"):
        extract(tmp_path, pages)
    (tmp_path / "a.warc").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.warc"):
        extract(tmp_path, pages)
