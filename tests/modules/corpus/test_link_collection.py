"""Collecting links: the sample's truth, whatever the order, the spread, a kill or the size."""

import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from modules.corpus import runs
from modules.corpus.links import LinksConfig, collect_links
from modules.files import read_jsonl
from modules.parallel import processes
from tests.modules.corpus.link_dumps import DUMPS, collect

ROOT = Path(__file__).resolve().parents[3]
EVERYTHING = LinksConfig(keep_over_18=True, blocklist="none", block_extensions=False)


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
