"""The sample preset's corpus against the truth file of the sample web, row by row."""

from collections import defaultdict
from urllib.parse import urlsplit

import pytest

from modules import presets
from modules.corpus.clean import clean
from modules.corpus.document import read_documents
from modules.corpus.extract import extract_text
from modules.corpus.links import collect_links
from modules.corpus.pages import select_pages
from modules.files import read_jsonl

pytestmark = pytest.mark.timeout(600)
CORPUS = presets.SAMPLE.corpus
EXCLUDED = ("wikipedia.org", "reddit.com", "redd.it")  # the paper's own exclusions
# Pages that the truth file calls English by their folder, but whose text is Portuguese.
PORTUGUESE = {
    f"https://httpd.apache.org/docs/2.4/en/{name}.html"
    for name in ("bind", "filter", "invoking", "new_features_2_4")
}


@pytest.fixture(scope="module")
def web(data):
    """The truth by address."""
    return {row["url"]: row for row in read_jsonl(data / "web/truth.jsonl.zst")}


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    """Folder of every step of the sample corpus, up to clean documents (web pages only)."""
    out = {name: tmp_path_factory.mktemp(name) for name in ("links", "pages", "text", "documents")}
    collect_links(CORPUS.paths(data, "dumps"), out["links"], CORPUS.links)
    warcs = CORPUS.paths(data, "warcs")
    select_pages(out["links"], warcs, data, out["pages"], CORPUS.pages)
    extract_text(out["pages"], data, out["text"], CORPUS.extract)
    clean(out["text"], [], out["documents"], CORPUS.clean)
    return out


def excluded(url):
    """Tell whether a host is left out whatever its karma."""
    host = urlsplit(url).hostname or ""
    return any(host == domain or host.endswith("." + domain) for domain in EXCLUDED)


def test_links_are_exact(made, web):
    found = {row["url"] for row in read_jsonl(made["links"] / "links.jsonl.zst")}
    wanted = {url for url, row in web.items() if row.get("links_ok") and not excluded(url)}
    assert found == wanted


def test_nothing_gets_in_that_should_not(made, web):
    for document in read_documents(made["documents"]):
        row = web[document.url]
        assert (row.get("max_score_with_redirects") or row["max_score"]) >= 3, document.url
        assert not excluded(document.url)
        assert row["status"] == 200


def test_rows_come_out_as_the_truth_says(made, web):
    """At least 99 % of stored pages; the rest is listed in the failure."""
    kept = {document.url for document in read_documents(made["documents"])}
    by_id = {document.id: document.url for document in read_documents(made["text"])}
    dropped = {
        row["url"]: row
        for shard in made["documents"].glob("dropped-*.jsonl.zst")
        for row in read_jsonl(shard)
    }
    groups = defaultdict(list)
    for url, row in web.items():
        if row.get("dup_group") is not None and row.get("links_ok_with_redirects"):
            groups[row["dup_group"]].append(url)
    wrong = [
        url
        for url, row in web.items()
        if row.get("warc") and row.get("status") == 200 and row.get("main_words")
        if (why := disagreement(url, row, kept, dropped, groups, by_id))
        if why != "other_language" or url not in PORTUGUESE
    ]
    total = sum(1 for row in web.values() if row.get("warc") and row.get("main_words"))
    assert total > 1000
    assert len(wrong) <= 0.01 * total, sorted(wrong)


def disagreement(url, row, kept, dropped, groups, by_id):
    """Return what is wrong with a page's fate, or an empty string."""
    if not row["links_ok_with_redirects"] or row["is_wikipedia"]:
        return "kept" if url in kept else ""
    reason = dropped.get(url, {}).get("reason", "")
    if row["lang"] != "en" and reason == "other_language":
        return ""
    if row.get("dup_group") is not None:
        members = groups[row["dup_group"]]
        languages = {dropped.get(x, {}).get("reason") for x in members} == {"other_language"}
        return "" if languages or sum(x in kept for x in members) == 1 else "group"
    if url in kept or reason == "too_short":
        return ""
    if reason == "near_duplicate":  # a Jaccard of 0.5 to 0.8 is a grey zone
        like = dict(row["near"] or []).get(by_id[dropped[url]["detail"].split()[0]], 0.0)
        return "" if like >= 0.5 else "merged"
    return reason or "lost"
