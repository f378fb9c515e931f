"""The counts of the larger sample web's truth_summary.json, as our own steps find them."""

import json
from collections import Counter
from urllib.parse import urlsplit

import pytest

from modules.corpus.addresses import canonical_url, is_below
from modules.corpus.clean import clean
from modules.corpus.dumps import read_dump
from modules.corpus.extract import ExtractConfig, extract_text
from modules.corpus.links import LinksConfig, collect_links
from modules.corpus.pages import PagesConfig, select_pages
from modules.corpus.recipe import CleanConfig, FilterConfig
from modules.corpus.warc import Capture, read_captures
from modules.files import read_jsonl

EVERY_HOST = LinksConfig(keep_over_18=True, blocklist="none", block_extensions=False)
EVERY_TEXT = CleanConfig(filters=FilterConfig(languages=(), min_words=0))


@pytest.fixture(scope="module")
def web(shared_data):
    return shared_data / "web"


@pytest.fixture(scope="module")
def summary(web):
    return json.loads((web / "truth_summary.json").read_text())


@pytest.fixture(scope="module")
def truth(web):
    return {row["url"]: row for row in read_jsonl(web / "truth.jsonl.zst")}


@pytest.fixture(scope="module")
def pages(web, tmp_path_factory):
    """The addresses of the pages that links lead to, and their clean documents' counts."""
    out = tmp_path_factory.mktemp("truth")
    collect_links(sorted(web.glob("RS_*")), out / "links", EVERY_HOST)
    warcs = sorted(web.glob("pages-*.warc.gz"))
    select_pages(out / "links", warcs, web, out / "pages", PagesConfig())
    extract_text(out / "pages", web, out / "text", ExtractConfig(min_words=1))
    counts = clean(out / "text", [], out / "documents", EVERY_TEXT)
    found = [row["final_url"] for row in read_jsonl(out / "pages" / "pages.jsonl.zst")]
    return found, counts, out


def test_submissions(web, summary):
    posts = [post for path in sorted(web.glob("RS_*")) for post in read_dump(path, 2**24)]
    links = [post for post in posts if post.unfit != "self-post"]
    addresses = [canonical_url(post.url, escaped=True) for post in links]
    karma = {url for post, url in zip(links, addresses, strict=True) if post.score >= 3}
    outside = {url for url in karma if not is_below(urlsplit(url).hostname, ("reddit.com",))}
    found = {
        "submissions": len(posts),
        "self_posts": len(posts) - len(links),
        "link_submissions": len(links),
        "link_submissions_with_score_3_or_more": sum(post.score >= 3 for post in links),
        "distinct_link_urls_canonical": len(set(addresses)),
        "distinct_link_urls_score_3_or_more_without_reddit": len(outside),
    }
    assert found == {name: summary[name] for name in found}


def test_stored_pages(web, summary, truth):
    found = [item for path in sorted(web.glob("pages-*.warc.gz")) for item in read_captures(path)]
    assert all(isinstance(item, Capture) for item in found)
    assert len(found) == summary["warc_responses"]
    html = {
        canonical_url(item.url)
        for item in found
        if item.status == 200 and item.content_type in PagesConfig().content_types
    }
    assert len(html) == summary["html_pages"]
    assert Counter(truth[url]["lang"] for url in html) == summary["html_pages_by_language"]
    assert Counter(truth[url]["kind"] for url in html) == summary["html_pages_by_kind"]


def test_pages_that_links_lead_to(pages, summary, truth):
    """Wikipedia is left out before its pages are looked for, so they are counted apart."""
    found, _, _ = pages
    assert len(found) == len(set(found)) == summary["after_dropping_wikipedia_domains"]
    wikipedia = {
        url
        for url, row in truth.items()
        if row.get("is_wikipedia") and row.get("main_words") and row["links_ok_with_redirects"]
    }
    assert len(found) + len(wikipedia) == summary["html_pages_reached_with_karma"]


def test_distinct_pages(pages, summary, truth):
    """Each group of Jaccard 0.8 keeps one; what else went was like another page (0.5 to 0.8)."""
    found, counts, out = pages
    gone = [
        row
        for path in sorted((out / "documents").glob("dropped-*"))
        for row in read_jsonl(path)
        if row["reason"].endswith("_duplicate")
    ]
    grouped = [row for row in gone if truth[row["url"]]["dup_group"] is not None]
    assert len(found) - len(grouped) == summary["distinct_after_both"]
    assert counts["kept"] == len(found) - len(gone)
    for row in gone:
        near = truth[row["url"]]["near"] or []
        assert row in grouped or max(likeness for _, likeness in near) >= 0.5, row
