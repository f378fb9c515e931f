"""Links: the truth of the sample web, layouts of dumps, addresses, and every reason to drop."""

import bz2
import gzip
import json
import lzma
import random
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from modules.corpus import addresses, links, runs
from modules.corpus.addresses import blocked_domains, canonical_url, refusal
from modules.corpus.dumps import parse_json, read_lines
from modules.corpus.links import LinksConfig, collect_links
from modules.files import read_jsonl
from modules.parallel import processes

ROOT = Path(__file__).resolve().parents[3]
DUMPS = ("RS_2018-09.xz", "RS_2018-11.zst", "RS_2018-12.zst")
EVERYTHING = LinksConfig(keep_over_18=True, blocklist="none", block_extensions=False)


def collect(out: Path, *dumps: Path, config: LinksConfig = LinksConfig()):  # noqa: B008 (frozen)
    """Run the step; return (counts, links by url, dropped rows, rejected rows)."""
    out.mkdir(exist_ok=True)
    counts = collect_links(list(dumps), out, config)
    links = {row["url"]: row for row in read_jsonl(out / "links.jsonl.zst")}
    dropped = list(read_jsonl(out / "dropped.jsonl.zst"))
    rejected = list(read_jsonl(out / "rejected.jsonl.zst"))
    assert counts["links"] == len(links)
    assert counts["dropped"] == len(dropped)
    assert counts["rejected"] == len(rejected)
    damaged = sum(row["reason"].startswith("container") for row in rejected)
    assert counts["lines"] == counts["submissions"] + len(dropped) + len(rejected) - damaged
    return counts, links, dropped, rejected


def post(url="https://example.com/a", **fields):
    """Return one line of a dump."""
    row = {"id": "a1", "url": url, "score": 5, "is_self": False, "created_utc": 1500000000}
    return json.dumps(row | fields).encode() + b"\n"


def write(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"".join(lines))
    return path


@pytest.fixture(scope="module")
def truth(data):
    return {row["url"]: row for row in read_jsonl(data / "web" / "truth.jsonl.zst")}


def is_excluded(url: str) -> bool:
    """The paper's own exclusions, by the plainest rule."""
    host = urlsplit(url).hostname
    return host.endswith((".wikipedia.org", "reddit.com", "redd.it"))


def test_links_are_exactly_those_of_the_truth(data, truth, tmp_path):
    dumps = [data / "web" / name for name in DUMPS]
    counts, links, _, _ = collect(tmp_path, *dumps, config=EVERYTHING)
    want = {url for url, row in truth.items() if row["links_ok"] and not is_excluded(url)}
    assert sorted(set(links) ^ want) == []
    for url, row in links.items():
        assert row["score"] == truth[url]["max_score"], url
        assert set(row["submissions"]) <= set(truth[url]["submissions"]), url
    assert counts["lines"] == 3745
    assert counts["dropped_self-post"] == 260
    assert list(links) == sorted(links)


def test_default_rules_differ_from_the_truth_only_by_their_reasons(data, truth, tmp_path):
    dumps = [data / "web" / name for name in DUMPS]
    _, links, dropped, _ = collect(tmp_path, *dumps)
    want = {url for url, row in truth.items() if row["links_ok"] and not is_excluded(url)}
    allowed = {"over-18", "blocked-domain", "blocked-extension", "low-karma"}
    reasons = {row["url"]: row["reason"] for row in dropped}
    missing = want - set(links)
    assert set(links) <= want
    assert {reasons[url] for url in missing} <= allowed
    hosts = {urlsplit(u).hostname for u in missing if reasons[u] == "blocked-domain"}
    assert hosts == {"imgur.com", "i.imgur.com", "twitter.com", "www.youtube.com"}


def test_larger_set(shared_data, tmp_path):
    truth = {row["url"]: row for row in read_jsonl(shared_data / "web" / "truth.jsonl.zst")}
    dumps = [shared_data / "web" / name for name in DUMPS]
    _, links, _, _ = collect(tmp_path, *dumps, config=EVERYTHING)
    want = {url for url, row in truth.items() if row["links_ok"] and not is_excluded(url)}
    assert sorted(set(links) ^ want) == []


def test_output_does_not_depend_on_the_order_of_dumps_or_on_spilling(data, tmp_path):
    dumps = [data / "web" / name for name in DUMPS]
    collect(tmp_path / "a", *dumps)
    collect(tmp_path / "b", *reversed(dumps), dumps[0])
    collect(tmp_path / "c", *dumps, config=LinksConfig(rows_in_memory=100))
    files = [f"{name}.jsonl.zst" for name in ("links", "dropped", "rejected")]
    for name in files:
        expected = (tmp_path / "a" / name).read_bytes()
        assert (tmp_path / "b" / name).read_bytes() == expected, name
        assert (tmp_path / "c" / name).read_bytes() == expected, name
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == sorted(files)


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("a.jsonl", bytes),
        ("a.jsonl.gz", gzip.compress),
        ("RS_2012-01.bz2", bz2.compress),
        ("RS_2018-01.xz", lzma.compress),
        ("RS_2020-01.zst", zstandard.ZstdCompressor().compress),
        ("misnamed.txt", zstandard.ZstdCompressor().compress),
    ],
)
def test_containers(tmp_path, name, compress):
    dump = write(tmp_path / name, compress(post() + post("https://example.com/b", id="b")))
    _, links, _, rejected = collect(tmp_path / "out", dump)
    assert list(links) == ["https://example.com/a", "https://example.com/b"]
    assert not rejected


def test_frames_of_zstd_in_a_row(tmp_path):
    compress = zstandard.ZstdCompressor().compress
    dump = write(tmp_path / "a.zst", compress(post()), compress(post("https://b.example/x")))
    assert len(collect(tmp_path / "out", dump)[1]) == 2


def test_csv(tmp_path):
    dump = write(
        tmp_path / "links.csv",
        b"score,url,title,date\n",
        b'7,https://example.com/a,"one, two",2017-05-06\n',
        b"2,https://example.com/low,t,2017-05-06\n",
        b"9,https://example.com/odd\n",
        b"x,https://example.com/bad,t,2017-05-06\n",
        b"3.0,https://example.com/b,t,1500000000\n",
    )
    _, links, dropped, rejected = collect(tmp_path / "out", dump)
    assert links["https://example.com/a"]["created"] == 1494028800  # midnight UTC
    assert links["https://example.com/b"]["created"] == 1500000000
    assert [row["reason"] for row in dropped] == ["low-karma"]
    assert [(r["line"], r["reason"]) for r in rejected] == [
        (4, "wrong-number-of-columns"),
        (5, "bad-score"),
    ]


def test_csv_without_a_column_is_an_error(tmp_path):
    dump = write(tmp_path / "links.csv", b"url,score\nhttps://example.com/a,5\n")
    with pytest.raises(ValueError, match=r"links\.csv.*missing: date"):
        collect(tmp_path / "out", dump)


def test_missing_dump_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"RS_2099\.zst"):
        collect_links([tmp_path / "RS_2099.zst"], tmp_path, LinksConfig())
    with pytest.raises(ValueError, match="no link dumps"):
        collect_links([], tmp_path, LinksConfig())


def test_damage_costs_itself_only(tmp_path):
    whole = zstandard.ZstdCompressor().compress(b"".join(post(id=f"{i:x}") for i in range(9999)))
    dumps = [
        write(tmp_path / "RS_1.zst", whole[: len(whole) // 2]),
        write(tmp_path / "RS_2.zst", b"no zstd at all\n"),
        write(tmp_path / "RS_3.zst", b""),
        write(tmp_path / "RS_4.xz", lzma.compress(post())[:-9]),
        write(tmp_path / "RS_5.gz", gzip.compress(post())[:-9]),
        write(tmp_path / "RS_6.jsonl", b"{\n", post("https://good.example/"), b"\xff\xfe\n", b"[]"),
    ]
    _, links, _, rejected = collect(tmp_path / "out", *dumps)
    assert "https://good.example/" in links
    reasons = {row["file"]: row["reason"] for row in rejected}
    assert reasons["RS_1.zst"] == "container: the zstd frame is cut off"
    assert reasons["RS_2.zst"] == "container: not a .zst file"
    assert reasons["RS_3.zst"] == "container: empty"
    assert {"RS_4.xz", "RS_5.gz"} <= set(reasons)
    bad = [(r["line"], r["offset"], r["reason"]) for r in rejected if r["file"] == "RS_6.jsonl"]
    length = len(post("https://good.example/"))
    assert bad == [
        (1, 0, "not-json"),
        (3, 2 + length, "not-utf8"),
        (4, 5 + length, "not-an-object"),
    ]


def test_a_huge_line_is_never_held(tmp_path):
    class Endless:
        """100 MB of one line, and then a good one; remembers the largest piece asked for."""

        def __init__(self):
            self.left, self.largest, self.rest = 100_000_000, 0, [b"\n", b"good\n", b""]

        def readline(self, limit):
            self.largest = max(self.largest, limit)
            if self.left <= 0:
                return self.rest.pop(0)
            self.left -= limit
            return b"x" * limit

    stream = Endless()
    lines = list(read_lines(stream, 2**20))
    assert [(line.number, line.data) for line in lines] == [(1, None), (2, b"good\n")]
    assert lines[1].offset >= 100_000_000
    assert stream.largest <= 2**20 + 1


def test_a_line_of_exactly_the_limit_is_read(tmp_path):
    line = post()
    dump = write(tmp_path / "a.jsonl", line, post(title="x" * 10), line)
    config = LinksConfig(max_line_bytes=len(line) - 1)
    _, _, _, rejected = collect(tmp_path / "out", dump, config=config)
    assert [(r["line"], r["offset"], r["reason"]) for r in rejected] == [
        (2, len(line), "line-too-long")
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"score": "5", "created_utc": "1500000000", "over_18": "false", "is_self": "false"},
        {"is_self": None, "domain": "example.com", "over_18": None},
        {"score": None, "ups": 7, "downs": 2},  # the oldest dumps
        {"score": None, "ups": "5", "downs": None},
        {"promoted": None, "edited": 1500000100.0, "media": {"oembed": {}}, "selftext": ""},
        {"promoted": False, "crosspost_parent_list": [{"url": "https://other.example/"}]},
        {"created_utc": 1500000000.0, "created": 1500028800.0},  # the latter in Reddit's own zone
        {"created_utc": None, "created": "2017-07-14 02:40:00"},
    ],
)
def test_layouts_of_pushshift(tmp_path, change):
    dump = write(tmp_path / "RS_old.jsonl", post(**change))
    _, found, _, _ = collect(tmp_path / "out", dump)
    assert found == {
        "https://example.com/a": {
            "url": "https://example.com/a",
            "score": 5,
            "submissions": ["a1"],
            "created": 1500000000,
            "subreddits": [],
        }
    }


STORY = {  # Hacker News, as the Firebase API gives it
    "by": "dhouston",
    "descendants": 71,
    "id": 8863,
    "kids": [8952, 9224],
    "score": 111,
    "time": 1175714200,
    "title": "A title",
    "type": "story",
    "url": "http://www.example.com/u2",
}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"score": "111", "time": "1175714200", "dead": None, "deleted": None}, ""),  # BigQuery
        ({"timestamp": "2007-04-04 19:16:40 UTC", "time": None}, ""),
        ({"time": "2007-04-04T19:16:40"}, ""),
        ({"url": None, "text": "Ask HN"}, "self-post"),
        ({"url": "", "text": "Ask HN"}, "self-post"),
        ({"type": "job"}, "job"),
        ({"type": "comment", "url": None, "score": None}, "comment"),
        ({"type": "poll", "url": None}, "poll"),
        ({"type": "pollopt", "url": None}, "pollopt"),
        ({"dead": True}, "dead"),
        ({"dead": "true"}, "dead"),
        ({"deleted": True, "url": None, "score": None, "by": None}, "deleted"),
        ({"score": 2}, "low-karma"),
    ],
)
def test_items_of_hacker_news(tmp_path, change, reason):
    dump = write(tmp_path / "hn.jsonl", json.dumps(STORY | change).encode() + b"\n")
    _, found, dropped, rejected = collect(tmp_path / "out", dump)
    assert [row["reason"] for row in dropped] == [reason] * bool(reason)
    assert not rejected
    for row in found.values():
        assert (row["score"], row["created"], row["submissions"]) == (111, 1175714200, ["hn-8863"])


def table(path: Path, **columns) -> Path:
    parquet.write_table(pa.table(columns), path, row_group_size=2)
    return path


def test_parquet(tmp_path):
    moment = datetime(2017, 7, 14, 2, 40, tzinfo=UTC)
    dump = table(
        tmp_path / "links.parquet",
        URL=[f"https://example.com/{c}" for c in "abcd"] + [None],
        points=[3.0, 2.0, float("nan"), 9.0, 9.0],
        created_at=[moment] * 5,
        text=["x" * 1000] * 5,
    )
    counts, found, dropped, rejected = collect(tmp_path / "out", dump)
    assert {url: row["created"] for url, row in found.items()} == {
        "https://example.com/a": 1500000000,
        "https://example.com/d": 1500000000,
    }
    assert [row["reason"] for row in dropped] == ["low-karma"]
    assert [(r["line"], r["reason"]) for r in rejected] == [(3, "bad-score"), (5, "no-url")]
    assert counts["lines"] == 5


def test_parquet_without_a_column_is_an_error(tmp_path):
    dump = table(tmp_path / "links.parquet", url=["https://example.com/"], score=[3])
    with pytest.raises(ValueError, match=r"links\.parquet.*missing: date"):
        collect(tmp_path / "out", dump)


def test_a_bad_value_in_parquet_costs_its_row(tmp_path):
    damaged = pa.array([b"https://example.com/a", b"\xff\xfe", b"https://example.com/c"])
    dump = table(
        tmp_path / "links.parquet",
        url=pa.Array.from_buffers(pa.string(), 3, damaged.buffers()),
        score=[3, 3, 3],
        date=[0, 0, 0],
    )
    _, found, _, rejected = collect(tmp_path / "out", dump)
    assert list(found) == ["https://example.com/a", "https://example.com/c"]
    assert [(r["line"], r["reason"]) for r in rejected] == [(2, "bad-value")]


def test_damaged_parquet_is_one_rejected_record_at_most(tmp_path):
    whole = table(
        tmp_path / "whole.parquet",
        url=[f"https://example.com/{i}" for i in range(100)],
        score=[3] * 100,
        date=["2017-01-01"] * 100,
    ).read_bytes()
    chance = random.Random(0)
    cuts = [whole[: len(whole) * k // 10] for k in range(1, 10)]
    flips = []
    for _ in range(20):
        data = bytearray(whole)
        data[chance.randrange(4, len(data))] ^= 1 << chance.randrange(8)
        flips.append(bytes(data))
    for number, data in enumerate(cuts + flips):
        dump = write(tmp_path / "bad.parquet", data)
        try:
            _, _, _, rejected = collect(tmp_path / str(number), dump)
        except ValueError as error:  # a flipped bit in the name of a column
            assert "missing:" in str(error)
            continue
        assert sum(row["reason"].startswith("container") for row in rejected) <= 1


def test_names_of_fields_in_json_lines(tmp_path):
    dump = write(
        tmp_path / "a.jsonl",
        b'{"link": "https://example.com/a", "points": 4, "date": "2017-07-14T02:40:00Z"}\n',
        b'{"url": "https://example.com/b", "karma": "4", "timestamp": 1500000000}\n',
    )
    _, found, _, _ = collect(tmp_path / "out", dump)
    assert [(row["score"], row["created"]) for row in found.values()] == [(4, 1500000000)] * 2


def test_output_does_not_depend_on_where_it_is_read(data, tmp_path):
    dumps = [data / "web" / name for name in DUMPS]
    collect_links(dumps, tmp_path / "alone", LinksConfig())
    with processes(2) as spread:
        collect_links(dumps, tmp_path / "spread", LinksConfig(), spread=spread)
    for name in ("links", "dropped", "rejected"):
        expected = (tmp_path / "alone" / f"{name}.jsonl.zst").read_bytes()
        assert (tmp_path / "spread" / f"{name}.jsonl.zst").read_bytes() == expected


def test_a_dump_read_before_a_kill_is_not_read_again(data, tmp_path):
    dumps = [data / "web" / name for name in DUMPS]
    expected = collect(tmp_path / "whole", *dumps)

    def cut(function, items):
        yield function(items[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect_links(dumps, tmp_path / "out", LinksConfig(), spread=cut)
    with pytest.raises(KeyboardInterrupt):  # other settings: what was read for these is no good
        collect_links(dumps, tmp_path / "out", LinksConfig(min_karma=5), spread=cut)
    with pytest.raises(KeyboardInterrupt):
        collect_links(dumps, tmp_path / "out", LinksConfig(), spread=cut)
    (read,) = (tmp_path / "out" / "parts").glob("*/counts.json")
    before = read.stat().st_mtime_ns

    def check(function, items):
        for item in items:
            yield function(item)
        assert read.stat().st_mtime_ns == before

    collect_links(dumps, tmp_path / "out", LinksConfig(), spread=check)
    assert collect(tmp_path / "out", *dumps) == expected


def test_more_runs_than_are_merged_at_once(data, tmp_path, monkeypatch):
    dumps = [data / "web" / name for name in DUMPS]
    expected = collect(tmp_path / "a", *dumps)
    monkeypatch.setattr(runs, "FAN_IN", 3)
    assert collect(tmp_path / "b", *dumps, config=LinksConfig(rows_in_memory=50)) == expected


MEASURE = """
import itertools, json, resource, sys, zstandard
from pathlib import Path
from modules.corpus.links import LinksConfig, collect_links
folder, n, rows = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
with zstandard.open(folder / "RS.zst", "wb") as file:
    for i in range(n):
        url = f"https://site{i * 7919 % 100003}.example.com/{i * 104729 % (n * 2 // 3)}/a-title"
        row = {"id": f"{i:x}", "url": url, "score": i * 31 % 17, "created_utc": i}
        file.write(json.dumps(row).encode() + b"\\n")
counts = collect_links([folder / "RS.zst"], folder / "out", LinksConfig(rows_in_memory=rows))
print(counts["links"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def measure(folder: Path, n: int, rows: int) -> tuple[int, int]:
    """Collect n lines in a process of its own; return (links, its largest memory in MiB)."""
    folder.mkdir()
    command = [sys.executable, "-c", MEASURE, str(folder), str(n), str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    found, memory = done.stdout.split()
    return int(found), int(memory)


@pytest.mark.slow  # a minute
@pytest.mark.timeout(600)
def test_memory_does_not_grow_with_the_input(tmp_path):
    few, before = measure(tmp_path / "few", 40_000, rows=4_000)
    many, after = measure(tmp_path / "many", 640_000, rows=4_000)  # over 64 runs: merged twice
    assert many > 10 * few
    assert after < before + 60  # MiB: windows and buffers of the open runs


def test_a_link_posted_without_end_has_a_short_row(tmp_path, monkeypatch):
    monkeypatch.setattr(links, "NAMED", 10)
    posts = (post(id=f"{i:03d}", subreddit=f"s{i:03d}") for i in range(50))
    counts, found, _, _ = collect(tmp_path / "out", write(tmp_path / "a.jsonl", *posts))
    row = found["https://example.com/a"]
    assert row["submissions"] == [f"{i:03d}" for i in range(10)]
    assert len(row["subreddits"]) == 10
    assert counts["submissions"] == 50


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"score": 2}, "low-karma"),
        ({"score": "2"}, "low-karma"),
        ({"score": 2.999}, "low-karma"),
        ({"is_self": True}, "self-post"),
        ({"is_self": "true"}, "self-post"),
        ({"is_self": None, "domain": "self.linux"}, "self-post"),
        ({"promoted": True}, "promoted"),
        ({"url": "/r/linux/comments/a1/title/"}, "reddit"),  # a crosspost of a text post
        ({"over_18": True}, "over-18"),
        ({"url": "https://www.reddit.com/r/x/"}, "reddit"),
        ({"url": "https://i.redd.it/x"}, "reddit"),
        ({"url": "https://EN.WIKIPEDIA.ORG/wiki/Tin"}, "wikipedia"),
        ({"url": "http://en.m.wikipedia.org:80/wiki/Tin"}, "wikipedia"),
        ({"url": "https://imgur.com/x"}, "blocked-domain"),
        ({"url": "https://a.blocked.example/x"}, "blocked-domain"),
        ({"url": "https://example.com/A.PNG?x=1"}, "blocked-extension"),
        ({"url": "http://169.254.169.254/latest"}, "not-public"),
        ({"url": "ftp://example.com/"}, "not-http"),
        ({"url": "http://user:secret@example.com/"}, "malformed-url"),
        ({"url": "http://example.com:99999/"}, "malformed-url"),
        ({"url": "https://example.com/" + "a" * 5000}, "long-url"),
        ({"subreddit": "Nasty"}, "blocked-subreddit"),
        ({"created_utc": "1514764800"}, "too-late"),
    ],
)
def test_reasons_to_drop(tmp_path, fields, reason):
    config = LinksConfig(
        extra_blocked=("blocked.example",),
        blocked_subreddits=("nasty",),
        created_before=1514764800,
    )
    dump = write(tmp_path / "a.jsonl", post(**fields))
    counts, links, dropped, _ = collect(tmp_path / "out", dump, config=config)
    assert not links
    assert [row["reason"] for row in dropped] == [reason]
    assert counts[f"dropped_{reason}"] == 1


@pytest.mark.parametrize(
    ("host", "blocked_by"),
    [
        ("github.com", {"replications"}),  # in WebText's own list of large domains
        ("docs.google.com", {"replications"}),
        ("www.ebay.com", {"replications"}),
        ("pinterest.com", {"replications"}),
        ("apple.com", set()),
        ("itunes.apple.com", {"replications"}),
        ("i.imgur.com", {"paper", "replications"}),
        ("twitter.com", {"paper", "replications"}),
        ("notwikipedia.org", set()),
    ],
)
def test_block_lists(host, blocked_by):
    found = {
        name
        for name in ("none", "paper", "replications")
        if refusal(f"https://{host}/x", blocked_domains(name))
    }
    assert found == blocked_by
    assert LinksConfig().blocked == blocked_domains("paper")


def test_no_block_list_lets_wikipedia_or_reddit_in():
    assert refusal("https://en.wikipedia.org/wiki/Tin", blocked_domains("none")) == "wikipedia"
    assert refusal("https://old.reddit.com/r/x", blocked_domains("none")) == "reddit"


def test_sum_of_karma(tmp_path):
    dump = write(
        tmp_path / "a.jsonl", post(id="x", score=1), post(id="y", score=2), post(id="y", score=2)
    )
    assert not collect(tmp_path / "out", dump)[1]
    _, links, dropped, _ = collect(tmp_path / "sum", dump, config=LinksConfig(karma="sum"))
    assert links["https://example.com/a"]["score"] == 3
    assert links["https://example.com/a"]["submissions"] == ["x", "y"]
    assert [row["reason"] for row in dropped] == ["repeated-submission"]


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("HTTP://Example.COM:80", "http://example.com/"),
        ("https://example.com/a#top", "https://example.com/a"),
        ("https://example.com/?utm_source=x&amp;b=2&amp;a=1", "https://example.com/?a=1&b=2"),
        ("https://example.com/?x=1&copy=2", "https://example.com/?copy=2&x=1"),
        ("https://bücher.example/über", "https://xn--bcher-kva.example/%C3%BCber"),
        ("https://xn--bcher-kva.example/%c3%bcber", "https://xn--bcher-kva.example/%C3%BCber"),
        ("https://example.com/a/../b c", "https://example.com/b%20c"),
        ("https://example.com./x", "https://example.com/x"),
        ("http://[2001:DB8:0::1]:8080/", "http://[2001:db8::1]:8080/"),
    ],
)
def test_canonical_addresses(url, canonical):
    assert canonical_url(url, escaped=True) == canonical
    assert canonical_url(canonical) == canonical


def test_the_short_way_gives_what_the_long_one_does(truth):
    ways = Counter()
    for url in truth:
        ways[bool(addresses.PLAIN.fullmatch(url))] += 1
        assert canonical_url(url) == addresses._canonical(url)
    assert ways[True] > ways[False]


@given(st.from_regex(addresses.PLAIN, fullmatch=True))
@settings(max_examples=200, deadline=None)
def test_the_short_way_gives_what_the_long_one_does_with_any_address(url):
    assert outcome(canonical_url, url) == outcome(addresses._canonical, url)


def outcome(function, url):
    try:
        return function(url)
    except ValueError as error:  # a host longer than names may be
        return str(error)


@given(st.text(max_size=60), st.sampled_from(["", "http://", "https://a.example/", "https://"]))
@settings(max_examples=300, deadline=None)
def test_any_text_is_an_address_or_a_reason(text, prefix):
    try:
        url = canonical_url(prefix + text, escaped=True)
    except ValueError as error:
        assert str(error) in {"long-url", "malformed-url", "not-http"}
        return
    assert canonical_url(url) == url
    assert url.encode("utf-8")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["id", "url", "score", "created_utc", "domain"]), JSON))
@settings(max_examples=100, deadline=None)
def test_any_row_is_a_submission_or_a_reason(row):
    try:
        found = parse_json(json.dumps(row).encode())
    except ValueError as error:
        assert str(error) in {"no-url", "no-score", "bad-score"}
        return
    assert isinstance(found.score, int)
    assert found.url.encode()


@given(st.binary(max_size=80))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_submission_or_a_reason(line):
    try:
        parse_json(line)
    except ValueError as error:
        assert str(error) in {"not-utf8", "not-json", "not-an-object", "no-url", "no-score"}
