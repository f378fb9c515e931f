"""Files of dumps: compressed, CSV, Parquet, cut or damaged, with lines that are too long."""

import bz2
import gzip
import lzma
import random
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from modules.corpus.dumps import read_lines
from modules.corpus.links import LinksConfig, collect_links
from tests.modules.corpus.link_dumps import collect, post, write


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
