"""Which links stay: every reason to drop, block lists, karma, one address of many spellings."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.corpus import addresses, links
from modules.corpus.addresses import blocked_domains, canonical_url, refusal
from modules.corpus.links import LinksConfig
from tests.modules.corpus.link_dumps import collect, post, write


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


def test_a_link_posted_without_end_has_a_short_row(tmp_path, monkeypatch):
    monkeypatch.setattr(links, "NAMED", 10)
    posts = (post(id=f"{i:03d}", subreddit=f"s{i:03d}") for i in range(50))
    counts, found, _, _ = collect(tmp_path / "out", write(tmp_path / "a.jsonl", *posts))
    row = found["https://example.com/a"]
    assert row["submissions"] == [f"{i:03d}" for i in range(10)]
    assert len(row["subreddits"]) == 10
    assert counts["submissions"] == 50


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
