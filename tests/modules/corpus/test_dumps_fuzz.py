"""Fuzz: whatever a line of a dump holds, it is a link, dropped, or rejected with a known reason."""

import lzma
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from modules.corpus.addresses import canonical_url
from modules.corpus.dumps import csv_parser, parse_json
from modules.corpus.links import LinksConfig, collect_links
from modules.files import read_jsonl

REJECTIONS = {
    "bad-score",
    "line-too-long",
    "no-score",
    "no-url",
    "not-an-object",
    "not-csv",
    "not-json",
    "not-utf8",
    "wrong-number-of-columns",
}
ADDRESSES = {"long-url", "malformed-url", "not-http"}
HEADER = b"url,score,date,title\n"
SEEDS = [
    b'{"id":8863,"type":"story","score":"111","time":"1175714200","url":"http://a.example/u","by":"x"}',
    b'{"id":5,"type":"comment","deleted":true,"dead":null,"time":1175714200}',
    b'{"link":"https://b.example/?a=1&amp;b=2","points":3.0,"date":"2017-07-14T02:40:00Z"}',
    b'{"url":"/r/x/comments/1/","ups":3,"downs":1,"is_self":"false","over_18":"true","id":"1"}',
    b'[{"url": "https://d.example/", "score": 9}, 5]',
    b'https://c.example/a,7,2017-05-06,"one, two"',
]
TOKENS = [
    b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b"null", b"true", b"NaN", b"-Infinity",
    b"1e999", b"-", b"9" * 400, b"1" * 5000, b"0.1e-400", b"[" * 3000, b'{"a":' * 2000,
    b"\\ud800", b"\\u0000", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", "\u202e\u2028é".encode(),
    b"&amp;", b"&#x110000;", b"&#0;", b"%", b"%zz", b"http://", b"https://[::1",
    b"http://1.2.3.4:99999/", b"//", b"@", b"#", b"xn--", b"." * 300, b"a" * 5000,
    b"-62135596801", b"9999-12-31T23:59:59+00:00", b"0001-01-01", b"2017-02-30", b'"score":',
    b'"url":', b'"created_utc":', b'"type":"story",', b'"dead":',
]  # fmt: skip


def seeds(data: Path) -> list[bytes]:
    """Real lines of the sample dumps, and layouts that these have not."""
    with lzma.open(data / "web" / "RS_2018-09.xz") as file:
        return SEEDS * 20 + [line.rstrip() for line in file][:200]


def mutations(data: Path, n: int, seed: int) -> Iterator[bytes]:
    """Yield n damaged lines without line ends."""
    chance, lines = random.Random(seed), seeds(data)
    for _ in range(n):
        line = bytearray(chance.choice(lines))
        for _ in range(chance.choice((1, 1, 2, 4))):
            at, kind = chance.randrange(len(line) + 1), chance.randrange(5)
            if kind == 0 and at < len(line):
                line[at] ^= 1 << chance.randrange(8)
            elif kind == 1:
                line[at:at] = chance.choice(TOKENS)
            elif kind == 2:
                del line[at : at + chance.randrange(1, 40)]
            elif kind == 3:
                other = chance.choice(lines)
                line[at:] = other[chance.randrange(len(other)) :]
            else:
                line[at : at + chance.randrange(1, 12)] = chance.choice(TOKENS)
        yield bytes(line).replace(b"\n", b" ")


def read_one(line: bytes, parse) -> str:
    """Read one line as the step does; return the reason why it is no link, or an address."""
    try:
        post = parse(line)
    except ValueError as error:
        assert str(error) in REJECTIONS, line
        return str(error)
    assert isinstance(post.score, int)
    assert post.created is None or isinstance(post.created, int)
    (post.id + post.subreddit + post.unfit).encode()  # a lone surrogate would raise
    try:
        return canonical_url(post.url, escaped=True)
    except ValueError as error:
        assert str(error) in ADDRESSES, line
        return str(error)


def fuzz(data: Path, folder: Path, n: int, seed: int) -> None:
    """Read n damaged lines by themselves, each in its second, and then as dumps."""
    lines = list(mutations(data, n, seed))
    parsers, slowest = (parse_json, csv_parser(Path("a.csv"), HEADER)), 0.0
    for line in lines:
        start = time.thread_time()
        for parse in parsers:
            read_one(line, parse)
        slowest = max(slowest, time.thread_time() - start)
    assert slowest < 1
    dumps = [folder / "a.jsonl", folder / "b.csv"]
    dumps[0].write_bytes(b"{}\n" + b"\n".join(lines))  # the first line must not look like CSV
    dumps[1].write_bytes(HEADER + b"\n".join(lines))
    counts = collect_links(dumps, folder / "out", LinksConfig(max_line_bytes=10_000))
    assert counts["lines"] == counts["submissions"] + counts["dropped"] + counts["rejected"]
    assert counts["lines"] == 2 * sum(bool(line.strip()) for line in lines) + 1
    rejected = {row["reason"] for row in read_jsonl(folder / "out" / "rejected.jsonl.zst")}
    assert rejected == REJECTIONS  # the damage reaches every one of them
    assert sum(1 for _ in read_jsonl(folder / "out" / "dropped.jsonl.zst")) == counts["dropped"]
    for row in read_jsonl(folder / "out" / "links.jsonl.zst"):
        assert canonical_url(row["url"]) == row["url"]


def test_damaged_lines(data, tmp_path):
    fuzz(data, tmp_path, 50_000, seed=1)


@pytest.mark.slow  # about three minutes
@pytest.mark.timeout(3600)
def test_a_million_damaged_lines(data, tmp_path):
    for seed in range(20):
        (tmp_path / str(seed)).mkdir()
        fuzz(data, tmp_path / str(seed), 50_000, seed=100 + seed)


def test_damaged_containers(data, tmp_path):
    # Bits flipped in the packed bytes: at most one record says that the container is broken.
    chance, web = random.Random(2), data / "web"
    for number in range(20):
        name = ("RS_2018-09.xz", "RS_2018-12.zst")[number % 2]
        packed = bytearray((web / name).read_bytes())
        for _ in range(3):
            packed[chance.randrange(len(packed))] ^= 1 << chance.randrange(8)
        (tmp_path / name).write_bytes(packed)
        counts = collect_links([tmp_path / name], tmp_path / "out", LinksConfig())
        rejected = list(read_jsonl(tmp_path / "out" / "rejected.jsonl.zst"))
        broken = [row for row in rejected if row["reason"].startswith("container")]
        assert len(broken) <= 1
        known = counts["submissions"] + counts["dropped"] + counts["rejected"] - len(broken)
        assert counts["lines"] == known


def test_a_bomb_is_one_rejected_line(tmp_path):
    bomb = zstandard.ZstdCompressor(level=19).compress(b"[" * 100_000_000 + b"\n")
    assert len(bomb) < 100_000
    (tmp_path / "RS.zst").write_bytes(bomb + zstandard.ZstdCompressor().compress(SEEDS[0]))
    counts = collect_links([tmp_path / "RS.zst"], tmp_path / "out", LinksConfig())
    assert counts["links"] == counts["rejected"] == 1
    (row,) = read_jsonl(tmp_path / "out" / "rejected.jsonl.zst")
    assert row["reason"] == "line-too-long"
