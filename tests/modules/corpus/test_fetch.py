"""Fetching: pages as they were served, politely, and once, whatever kills the run."""

import random
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from io import BytesIO
from itertools import pairwise

import pytest
from warcio.archiveiterator import ArchiveIterator

from modules.corpus.client import Answer
from modules.corpus.crawl import FetchConfig
from modules.corpus.decode import clean_text, decode_text
from modules.corpus.document import read_documents
from modules.corpus.extract import ExtractConfig, extract_text
from modules.corpus.fetch import fetch_pages
from modules.corpus.main_text import main_text
from modules.corpus.network import NetworkConfig
from modules.corpus.pages import PagesConfig, select_pages
from modules.corpus.robots import RobotsConfig, parse_rules
from modules.corpus.sorting import sort_rows
from modules.corpus.warc import Capture, read_captures
from modules.files import read_jsonl, write_jsonl
from tests.modules.corpus import servers
from tests.modules.corpus.conftest import LOOPBACK, start_alone

QUICK = FetchConfig(network=LOOPBACK, per_host_delay_seconds=0.0, backoff_seconds=0.05)
FORMS = ("", ".gz", ".br", ".zst", ".chunked", ".close")


@pytest.fixture(scope="module")
def mixed(zoo, tmp_path_factory):
    """Return what a run over healthy servers left."""
    urls = [zoo.url("healthy", f"/{n}{form}", host=f"m{n}") for n in range(5) for form in FORMS]
    urls += [zoo.url("healthy", f"/{n}.moved", host=f"m{n}") for n in range(4)]
    urls += [zoo.url("healthy", path, host="m0") for path in ("/a.404", "/a.500")]
    urls += [zoo.url("mover", "/" + zoo.url("healthy", "/0", host="m0"))]
    return zoo.fetch(urls, tmp_path_factory.mktemp("mixed"), QUICK)


def test_fetched_text_is_that_of_the_served_page(mixed, tmp_path):
    extract_text(mixed.out, mixed.out, tmp_path, ExtractConfig())
    documents = list(read_documents(tmp_path))
    assert len(documents) == len(mixed.pages) == 5 * len(FORMS)
    for document in documents:
        path = "/" + document.url.rpartition("/")[2]
        served = decode_text(servers.page(path)).text
        assert document.text == clean_text(main_text(served).text)
        assert f"Story {path}:" in document.text


def test_every_link_has_its_outcome(zoo, mixed):
    missing, broken = (zoo.url("healthy", path, host="m0") for path in ("/a.404", "/a.500"))
    assert mixed.dropped == {missing: "http-404", broken: "http-5xx"}
    assert not mixed.outcomes[missing]["transient"]
    assert mixed.outcomes[broken]["transient"]
    assert mixed.outcomes[broken]["tries"] == 1 + QUICK.retries
    assert mixed.counts["merged_links"] == 5
    first = next(row for row in mixed.pages if row["final_url"] == zoo.url("healthy", "/0", "m0"))
    assert len(first["redirected_from"]) == 2  # from the same host and from another


def test_our_own_selection_from_the_warc_gives_the_same_pages(mixed, tmp_path):
    write_jsonl(tmp_path / "links.jsonl.zst", ({"url": url} for url in sorted(mixed.outcomes)))
    warcs = sorted((mixed.out / "warc").iterdir())
    counts = select_pages(tmp_path, warcs, mixed.out, tmp_path, PagesConfig())
    assert counts["rejected"] == 0
    assert list(read_jsonl(tmp_path / "pages.jsonl.zst")) == mixed.pages


def test_the_warc_is_good_for_other_readers(mixed):
    for path in (mixed.out / "warc").iterdir():
        ours = [item for item in read_captures(path) if isinstance(item, Capture)]
        with path.open("rb") as file:
            records = []
            for record in ArchiveIterator(file, check_digests="raise"):
                record.raw_stream.read()
                records.append(record.rec_type)
        assert records[0] == "warcinfo"
        assert records.count("response") == records.count("request") == len(ours) >= 30


def test_what_asked_for_time_or_broke_off_is_tried_again(zoo, tmp_path):
    urls = [zoo.url("busy-once", "/again"), zoo.url("short-once", "/short")]
    start = time.monotonic()
    fetched = zoo.fetch(urls, tmp_path, QUICK)
    assert sorted(row["final_url"] for row in fetched.pages) == sorted(urls)
    assert {row["tries"] for row in fetched.outcomes.values()} == {2}
    assert time.monotonic() - start >= 1.0  # as Retry-After said


def test_a_later_page_is_left_for_later(zoo, tmp_path):
    url = zoo.url("busy-for-a-year", "/")
    row = zoo.fetch([url], tmp_path, QUICK).outcomes[url]
    assert (row["reason"], row["transient"], row["tries"]) == ("http-5xx", True, 1)


def test_a_dead_host_is_left_alone(zoo, tmp_path):
    urls = [zoo.url("reset-before-answer", f"/{n}", host="dead") for n in range(30)]
    fetched = zoo.fetch(urls, tmp_path, QUICK.but(retries=0, host_failures=3))
    assert fetched.counts["dropped_host-down"] == 27
    assert fetched.counts["transient"] == 30
    assert len({path for _, path in zoo.hits("dead")}) == 3


def test_one_request_at_a_time_and_pauses_between(zoo, tmp_path):
    """Also for what redirects lead to a host."""
    delay = 0.1
    urls = [zoo.url("healthy", f"/{n}", host="polite") for n in range(8)]
    target = zoo.url("healthy", "/here", host="polite")
    urls += [zoo.url("mover", f"/{target}{n}", host=f"to-polite{n}") for n in range(8)]
    fetched = zoo.fetch(urls, tmp_path, QUICK.but(per_host_delay_seconds=delay))
    assert fetched.counts["pages"] == 16
    times = sorted(t for t, _ in zoo.hits("polite"))
    assert len(times) == 16
    assert min(b - a for a, b in pairwise(times)) >= delay * 0.9  # two clocks of one machine


def test_robots_txt_is_obeyed(zoo, tmp_path):
    paths = ["/open", "/private/x", "/private/but-not-this", "/private/but-only-this"]
    urls = [zoo.url("robots-rules", path) for path in paths]
    fetched = zoo.fetch(urls, tmp_path / "a", QUICK)
    assert fetched.dropped == {urls[1]: "robots"}
    times = sorted(t for t, _ in zoo.hits("robots-rules"))
    assert len(times) == 3
    assert min(b - a for a, b in pairwise(times)) >= 0.45  # its Crawl-delay is 0.5
    without = QUICK.but(robots=RobotsConfig(obey=False))
    assert zoo.fetch(urls[1:2], tmp_path / "b", without).counts["pages"] == 1


@pytest.mark.parametrize(
    ("text", "path", "verdict"),
    [
        ("", "/x", ""),
        ("User-agent: *\nDisallow: /", "/x", "robots"),
        ("User-agent: *\nDisallow: /\nUser-agent: textmill\nAllow: /", "/x", ""),
        ("User-agent: mill\nDisallow: /", "/x", ""),
        ("User-agent: a\nUser-agent: TextMill\nDisallow: /", "/x", "robots"),
        ("User-agent: a\nDisallow: /\nUser-agent: b\nDisallow: /y", "/x", ""),
        ("User-agent a\nDisallow: /\n\nUser-agent: *\nDisallow: /y", "/y", "robots"),
        ("User-agent: textmill # us\nDisallow: /*a*a*a*a*a*a*b", "/" + "a" * 4000, ""),
        ("\x00\ufffd\nUser-agent:\nDisallow", "/x", ""),
    ],
)
def test_robots_rules(text, path, verdict):
    rules = parse_rules(text, "textmill", RobotsConfig())
    assert rules.verdict(f"http://h.example{path}", "textmill") == verdict


def test_random_robots_never_raise():
    rng = random.Random(0)
    words = ["User-agent", ":", "*", "Disallow", "/", "$", "\n", "%zz", "é", "\x00", "Crawl-delay"]
    for _ in range(2000):
        text = "".join(rng.choice([*words, "1", " ", "#"]) for _ in range(40))
        rules = parse_rules(text, "textmill", RobotsConfig())
        assert 0 <= rules.delay <= 30
        assert rules.verdict("http://h.example/%zz?a=*$", "textmill") in ("", "robots")


@pytest.mark.parametrize(
    ("status", "field", "seconds"),
    [
        (429, "", 0),
        (429, "120", 120),
        (503, " 7 ", 7),
        (200, "120", 0),
        (503, "-5", 0),
        (503, "soon", 0),
        (503, "Fri, 31 Dec 1999 23:59:59 GMT", 0),
        (503, "Fri, 31 Dec 1999 23:59:59", 0),
        (503, "Fri, 31 Dec 99999 23:59:59 +99999999999999", 0),
        (503, "9" * 5000, 999999999),
    ],
)
def test_retry_after(status, field, seconds):
    answer = Answer("u", b"", status, b"", {"retry-after": field}, "", "", BytesIO())
    assert answer.retry_after == seconds


def test_retry_after_a_date():
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    answer = Answer("u", b"", 503, b"", {"retry-after": date}, "", "", BytesIO())
    assert 58 <= answer.retry_after <= 60


def test_a_contact_must_be_given(tmp_path):
    with pytest.raises(ValueError, match="contact"):
        fetch_pages([], tmp_path, FetchConfig())
    assert fetch_pages([], tmp_path, FetchConfig(contact="mailto:a@b.example"))["links"] == 0
    with pytest.raises(FileNotFoundError, match="no such links"):
        fetch_pages(tmp_path / "none", tmp_path, QUICK)


def test_the_config_survives_its_json():
    config = QUICK.but(network=NetworkConfig(allow_networks=("::1/128",), ports=(80,)))
    assert FetchConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("rows_in_memory", [1, 3, 10, 100])
def test_sorting_on_disk(tmp_path, rows_in_memory):
    rows = [{"n": n % 7, "i": n} for n in range(10)]
    found = sort_rows(
        rows, tmp_path, lambda row: row["n"], rows_in_memory=rows_in_memory, max_runs=3
    )
    assert list(found) == sorted(rows, key=lambda row: row["n"])
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_goes_on_with_the_unfinished_part(zoo, tmp_path):
    urls = [zoo.url("healthy", f"/{n}", host=f"kill{n % 5}") for n in range(100)]
    config = QUICK.but(part_links=20, per_host_delay_seconds=0.05)
    rng, kills, done = random.Random(1), 0, set()
    out = tmp_path / "out"
    out.mkdir()
    while True:
        process = start_alone(urls, out, config)
        parts = len(list(out.glob("parts/*.zst")))
        while process.poll() is None and len(list(out.glob("parts/*.zst"))) <= parts:
            time.sleep(0.01)  # until one more part is there
        time.sleep(rng.random() * 0.2)  # somewhere in the next one
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        kills += 1
        if (out / "outcomes.jsonl.zst").is_file():  # the kill came after all parts
            continue
        finished = {row["url"] for path in out.glob("parts/*.zst") for row in read_jsonl(path)}
        assert done <= finished
        done = finished
    assert process.returncode == 0
    assert kills >= 3
    undisturbed = zoo.fetch(urls, tmp_path / "other", config)
    killed = zoo.fetch(urls, out, config)  # finished: it asks for nothing
    assert killed.counts == undisturbed.counts
    place = [(r["final_url"], r["warc"]) for r in undisturbed.pages]
    assert sorted((r["final_url"], r["warc"]) for r in killed.pages) == sorted(place)
    stored = [c.url for p in (out / "warc").iterdir() for c in read_captures(p)]
    assert sorted(stored) == sorted(urls)  # none twice
    assert [path.name for path in out.rglob("*.tmp")] == []
    assert len(zoo.hits("kill")) <= 2 * len(urls) + kills * config.part_links
