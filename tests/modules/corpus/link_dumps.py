"""Dumps of links that tests write, and the step over them with its sums checked."""

import json
from pathlib import Path

from modules.corpus.links import LinksConfig, collect_links
from modules.files import read_jsonl

DUMPS = ("RS_2018-09.xz", "RS_2018-11.zst", "RS_2018-12.zst")


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
