"""Pages: the truth of the sample web, redirects, and damaged WARC files."""

import gzip
import random
import shutil
from pathlib import Path

import pytest

from modules.corpus.captures import find_captures, list_all, list_captures, listings
from modules.corpus.links import LinksConfig, collect_links
from modules.corpus.pages import PagesConfig, select_pages
from modules.corpus.warc import Capture, Damage, read_body, read_captures
from modules.files import read_jsonl, silent, write_jsonl
from modules.parallel import one_by_one, processes

DUMPS = ("RS_2018-09.xz", "RS_2018-11.zst", "RS_2018-12.zst")
WARCS = ("pages-00000.warc.gz", "pages-00001.warc.gz")
HTML = {"page", "copy-exact", "copy-rechromed", "copy-edited", "wikipedia", "wikipedia-copy"}


def record(url, body=b"<p>text</p>", status="200 OK", headers=(), date="2019-01-01T00:00:00Z"):
    """Return one WARC record with a response."""
    lines = [f"HTTP/1.1 {status}", *headers]
    if not any(header.lower().startswith("content-type") for header in headers):
        lines.append("Content-Type: text/html; charset=utf-8")
    http = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:1>\r\nWARC-Date: {date}\r\n"
        f"WARC-Target-URI: {url}\r\nContent-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(http)}\r\n\r\n"
    )
    return head.encode() + http + b"\r\n\r\n"


def moved(url, to, status="301 Moved"):
    return record(url, b"", status, (f"Location: {to}",))


def select(tmp_path: Path, urls, *records: bytes, config=PagesConfig(), name="a.warc.gz"):  # noqa: B008
    """Run the step on records; return (counts, pages by final url, reason by link, rejected)."""
    data = b"".join(gzip.compress(r) for r in records) if name.endswith("gz") else b"".join(records)
    (tmp_path / name).write_bytes(data)
    write_jsonl(tmp_path / "links.jsonl.zst", ({"url": url} for url in sorted(urls)))
    return run(tmp_path, [tmp_path / name], tmp_path, config)


def run(folder: Path, warcs, root: Path, config=PagesConfig()):  # noqa: B008 (frozen)
    out = folder / "out"
    out.mkdir(exist_ok=True)
    counts = select_pages(folder / "links.jsonl.zst", warcs, root, out, config)
    pages = {row["final_url"]: row for row in read_jsonl(out / "pages.jsonl.zst")}
    dropped = {row["url"]: row["reason"] for row in read_jsonl(out / "dropped.jsonl.zst")}
    rejected = list(read_jsonl(out / "rejected.jsonl.zst"))
    assert counts["links"] == counts["pages"] + counts["merged_links"] + counts["dropped"]
    assert counts["rejected"] == len(rejected)
    return counts, pages, dropped, rejected


@pytest.mark.parametrize("larger", [False, True])
def test_pages_are_exactly_those_of_the_truth(data, tmp_path, request, larger):
    web = (request.getfixturevalue("shared_data") if larger else data) / "web"
    truth = {row["url"]: row for row in read_jsonl(web / "truth.jsonl.zst")}
    everything = LinksConfig(keep_over_18=True, blocklist="none", block_extensions=False)
    collect_links([web / name for name in DUMPS], tmp_path, everything)
    _, pages, dropped, rejected = run(tmp_path, sorted(web.glob("pages-*.warc.gz")), web)
    want = {
        url
        for url, row in truth.items()
        if row["kind"] in HTML and row["links_ok_with_redirects"] and not row["is_wikipedia"]
    }
    assert sorted(set(pages) ^ want) == []
    assert rejected == []
    for url, row in pages.items():
        allowed = {u for u in truth[url]["redirected_from"] if truth[u]["links_ok"]}
        assert set(row["redirected_from"]) == allowed
    kinds = {"no-record": "no-record", "http-404": "http-404", "http-5xx": "http-5xx"}
    kinds |= {"image": "not-html", "pdf": "not-html"}
    for url, reason in dropped.items():
        if reason != "blocked-domain":
            assert reason == kinds[truth[url]["kind"]], url
    first = next(iter(pages.values()))
    body = read_body(web / first["warc"], offset=first["offset"], index=first["index"], limit=2**20)
    assert body.data


def test_output_does_not_depend_on_the_order_of_files(data, tmp_path):
    web = data / "web"
    warcs = [web / name for name in WARCS]
    collect_links([web / name for name in DUMPS], tmp_path, LinksConfig())
    run(tmp_path, warcs, web)
    before = [path.read_bytes() for path in sorted((tmp_path / "out").iterdir())]
    run(tmp_path, warcs[::-1], web)
    assert before == [path.read_bytes() for path in sorted((tmp_path / "out").iterdir())]


def test_redirects(tmp_path):
    h = "https://h.example"
    _, pages, dropped, _ = select(
        tmp_path,
        [f"{h}/{name}" for name in ("1", "2", "page", "loop", "self", "none", "file", "lost")]
        + [f"{h}/{name}" for name in ("wiki", "reddit", "private", "long0")],
        moved("http://h.example/1", f"{h}/page"),
        moved(f"{h}/1", "http://h.example/1", "302 Found"),
        moved(f"{h}/2", "page#part"),
        record(f"{h}/page"),
        record(f"{h}/unlinked"),
        moved(f"{h}/loop", "/loop2"),
        moved(f"{h}/loop2", "/loop"),
        moved(f"{h}/self", f"{h}/self"),
        record(f"{h}/none", b"", "302 Found"),
        moved(f"{h}/file", "file:///etc/hostname"),
        moved(f"{h}/lost", "/nowhere"),
        moved(f"{h}/wiki", "https://en.wikipedia.org/wiki/Tin"),
        record("https://en.wikipedia.org/wiki/Tin"),
        moved(f"{h}/reddit", "https://www.reddit.com/r/x"),
        moved(f"{h}/private", "http://127.0.0.1/secret"),
        record("http://127.0.0.1/secret"),
        *(moved(f"{h}/long{i}", f"/long{i + 1}") for i in range(9)),
        record(f"{h}/long9"),
    )
    assert list(pages) == [f"{h}/page"]
    assert pages[f"{h}/page"]["url"] == f"{h}/page"
    assert pages[f"{h}/page"]["redirected_from"] == [f"{h}/1", f"{h}/2"]
    assert {url.rpartition("/")[2]: reason for url, reason in dropped.items()} == {
        "loop": "redirect-loop",
        "self": "redirect-loop",
        "none": "redirect-no-location",
        "file": "redirect-to-not-http",
        "lost": "redirect-no-record",
        "wiki": "redirect-to-wikipedia",
        "reddit": "redirect-to-reddit",
        "private": "redirect-to-not-public",
        "long0": "redirect-limit",
    }


def test_a_page_only_reached_through_redirects_is_named_by_a_link(tmp_path):
    links = ["http://h.example/b", "http://h.example/a"]
    records = [moved(link, "https://h.example/") for link in links]
    _, pages, _, _ = select(tmp_path, links, *records, record("https://h.example/"))
    assert pages["https://h.example/"]["url"] == "http://h.example/a"
    assert pages["https://h.example/"]["redirected_from"] == sorted(links)


@pytest.mark.parametrize(
    ("status", "headers", "reason"),
    [
        ("200 OK", ("Content-Type: image/png",), "not-html"),
        ("200 OK", ("Content-Type: application/json; charset=utf-8",), "not-html"),
        ("200 OK", ("Content-Length: 99999",), "truncated"),
        ("404 Not Found", (), "http-404"),
        ("410 Gone", (), "http-4xx"),
        ("503 Busy", (), "http-5xx"),
        ("204 No Content", (), "http-2xx"),
        ("200 OK", ("Content-Type: Application/XHTML+XML",), ""),
        ("200 OK", ("Content-Type:",), ""),
    ],
)
def test_answers(tmp_path, status, headers, reason):
    url = "https://h.example/x"
    _, pages, dropped, _ = select(tmp_path, [url], record(url, b"<p>", status, headers))
    assert dropped == ({url: reason} if reason else {})
    assert list(pages) == ([] if reason else [url])


def test_the_first_good_capture_counts(tmp_path):
    url = "https://h.example/x"
    _, pages, _, _ = select(
        tmp_path,
        [url],
        record(url, status="500 Oops", date="2018-01-01T00:00:00Z"),
        record(url, date="2019-03-01T00:00:00Z"),
        record(url, date="2019-02-01T00:00:00Z"),
    )
    assert pages[url]["date"] == "2019-02-01T00:00:00Z"


def outcomes(folder: Path):
    """Return the outcome of every link by its last part."""
    rows = read_jsonl(folder / "out" / "outcomes.jsonl.zst")
    return {row["url"].rpartition("/")[2]: row for row in rows}


def test_every_link_has_an_outcome_for_the_ledger(tmp_path):
    h = "https://h.example"
    names = ("page", "moved", "gone", "busy", "slow", "none", "lost", "loop")
    counts, pages, _, _ = select(
        tmp_path,
        [f"{h}/{name}" for name in names],
        record(f"{h}/page"),
        moved(f"{h}/moved", "/page"),
        record(f"{h}/gone", status="404 Not Found"),
        record(f"{h}/busy", status="503 Busy"),
        record(f"{h}/slow", status="429 Too Many Requests"),
        moved(f"{h}/lost", "/nowhere"),
        moved(f"{h}/loop", "/loop"),
    )
    found = outcomes(tmp_path)
    assert len(found) == counts["links"] == len(names)
    for name, reason, status, transient in [
        ("page", "", 200, False),
        ("moved", "", 200, False),
        ("gone", "http-404", 404, False),
        ("busy", "http-5xx", 503, True),
        ("slow", "http-4xx", 429, True),
        ("none", "no-record", 0, True),
        ("lost", "redirect-no-record", 301, True),
        ("loop", "redirect-loop", 301, False),
    ]:
        row = found[name]
        assert (row["reason"], row["status"], row["transient"]) == (reason, status, transient), name
        place = [pages[f"{h}/page"][key] for key in ("warc", "offset", "index")]
        assert [row["warc"], row["offset"], row["index"]] == (["", 0, 0] if reason else place)
    assert found["moved"]["final_url"] == f"{h}/page"


def test_links_may_be_rows_and_only_what_they_lead_to_is_held(tmp_path):
    """A redirect's target may lie in a file before it."""
    h = "https://h.example"
    (tmp_path / "a.warc").write_bytes(b"".join(record(f"{h}/{i}") for i in range(50)))
    (tmp_path / "b.warc").write_bytes(moved(f"{h}/x", "/y") + moved(f"{h}/y", "/7"))
    warcs = [tmp_path / "a.warc", tmp_path / "b.warc"]
    lists = listings({path.name: path for path in warcs}, tmp_path / "lists")
    list_all(lists, one_by_one, silent)
    assert set(find_captures(lists, [f"{h}/x", f"{h}/none"], 5)) == {f"{h}/{i}" for i in "xy7"}
    (tmp_path / "out").mkdir()
    rows = ({"url": f"{h}/{name}"} for name in ("x", "3", "3"))
    counts = select_pages(rows, warcs, tmp_path, tmp_path / "out", PagesConfig())
    assert (counts["links"], counts["pages"], counts["records"]) == (2, 2, 52)


def test_a_killed_run_goes_on_with_the_files_it_has_not_listed(tmp_path):
    urls = [f"https://h.example/{name}" for name in "ab"]
    for url in urls:
        (tmp_path / f"{url[-1]}.warc").write_bytes(record(url))
    warcs = [tmp_path / "a.warc", tmp_path / "b.warc"]
    write_jsonl(tmp_path / "links.jsonl.zst", ({"url": url} for url in urls))
    out = tmp_path / "out"
    out.mkdir()
    lists = listings({path.name: path for path in warcs}, out / "captures")
    list_captures(lists[0])
    before = lists[0].list.stat().st_mtime_ns
    list_captures(lists[0])
    assert lists[0].list.stat().st_mtime_ns == before
    with processes(2) as spread:
        counts = select_pages(tmp_path, warcs, tmp_path, out, PagesConfig(), spread=spread)
    assert counts["pages"] == 2
    assert sorted(path.name for path in out.iterdir()) == [
        f"{name}.jsonl.zst" for name in ("dropped", "outcomes", "pages", "rejected")
    ]


CC_HEADERS = (  # as in Common Crawl's files: the body is decoded, what said how is renamed
    "X-Crawl-Content-Encoding: gzip",
    "X-Crawl-Transfer-Encoding: chunked",
    "X-Crawl-Content-Length: 21",
)


@pytest.mark.parametrize(
    ("warc_headers", "http_headers", "reason"),
    [
        ("", CC_HEADERS, ""),
        ("", (*CC_HEADERS, "Content-Length: 11"), ""),
        ("WARC-Truncated: length", CC_HEADERS, "truncated"),
        ("WARC-Truncated: disconnect", (), "truncated"),
        ("WARC-Identified-Payload-Type: text/html", ("Content-Type:",), ""),
        ("WARC-Identified-Payload-Type: image/jpeg", ("Content-Type:",), "not-html"),
        ("WARC-Identified-Payload-Type: application/xhtml+xml", ("Content-Type: text/html",), ""),
        ("WARC-Payload-Digest: sha1:ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", (), ""),
        ("WARC-Block-Digest: sha1:ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", (), "no-record"),
    ],
)
def test_common_crawl_layout(tmp_path, warc_headers, http_headers, reason):
    url = "https://h.example/x"
    data = record(url, b"<p>text</p>", headers=http_headers)
    lines = (warc_headers and f"{warc_headers}\r\n").encode()
    data = data.replace(b"WARC-Target-URI", lines + b"WARC-Target-URI")
    _, pages, dropped, _ = select(tmp_path, [url], data)
    assert dropped == ({url: reason} if reason else {})
    if not reason:
        row = pages[url]
        body = read_body(tmp_path / "a.warc.gz", offset=row["offset"], index=0, limit=99)
        assert (body.data, body.content_encoding, body.transfer_encoding) == (
            b"<p>text</p>",
            "",
            "",
        )


URLS = [f"https://h.example/{i}" for i in range(5)]


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "one-member.warc.gz"])
def test_every_container_gives_back_its_bodies(tmp_path, name):
    records = [record(url, f"<p>{url}</p>".encode() * 500) for url in URLS]
    if name.startswith("one"):
        records = [b"".join(records)]
    _, pages, _, rejected = select(tmp_path, URLS, *records, name=name)
    assert rejected == []
    for url in URLS:
        row = pages[url]
        body = read_body(tmp_path / row["warc"], offset=row["offset"], index=row["index"], limit=20)
        assert body.data == f"<p>{url}</p>".encode()[:20]


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
@pytest.mark.parametrize("harm", ["header", "length", "no-length", "bytes", "cut"])
def test_damage_costs_the_damaged_record_only(tmp_path, name, harm):
    records = [record(url, f"<p>{url}</p>".encode() * 50) for url in URLS]
    packed = gzip.compress if name.endswith("gz") else bytes
    if harm == "header":
        records[2] = records[2].replace(b"WARC/1.0", b"BARC?1.0")
    elif harm == "length":
        records[2] = records[2].replace(b"Content-Length: ", b"Content-Length: 99")
    elif harm == "no-length":
        records[2] = records[2].replace(b"Content-Length", b"Content-Height")
    members = [packed(r) for r in records]
    if harm == "bytes":
        members[2] = members[2][:15] + b"\x00\xff" * 20 + members[2][55:]
    elif harm == "cut":
        members[4] = members[4][: len(members[4]) // 2]
    (tmp_path / name).write_bytes(b"".join(members))
    write_jsonl(tmp_path / "links.jsonl.zst", ({"url": url} for url in URLS))
    _, pages, dropped, rejected = run(tmp_path, [tmp_path / name], tmp_path)
    lost = URLS[4 if harm == "cut" else 2]
    assert set(pages) == set(URLS) - {lost}
    assert dropped == {lost: "no-record"}
    where = URLS.index(lost) + ((name, harm) == ("a.warc", "header"))  # its start is lost
    assert [row["offset"] for row in rejected] == [sum(map(len, members[:where]))]


@pytest.mark.parametrize("seed", range(40))
def test_bit_rot_never_ends_the_reading(tmp_path, seed):
    rng = random.Random(seed)
    packed = gzip.compress if seed % 2 else bytes
    data = bytearray(b"".join(packed(record(url, b"<p>x</p>" * 99)) for url in URLS))
    for _ in range(rng.randrange(1, 5)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path = tmp_path / "a.warc"
    path.write_bytes(bytes(data[: rng.choice([len(data), rng.randrange(len(data))])]))
    items = list(read_captures(path))
    assert items
    assert all(isinstance(item, Capture | Damage) for item in items)


def test_mistakes_are_named(tmp_path):
    write_jsonl(tmp_path / "links.jsonl.zst", [])
    with pytest.raises(FileNotFoundError, match=r"no\.warc"):
        run(tmp_path, [tmp_path / "no.warc"], tmp_path)
    with pytest.raises(ValueError, match="no WARC files"):
        run(tmp_path, [], tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "a.warc").write_bytes(record(URLS[0]))
    with pytest.raises(ValueError, match=r"a\.warc: not below"):
        run(tmp_path, [tmp_path / "a.warc"], tmp_path / "in")
    shutil.rmtree(tmp_path / "in")
