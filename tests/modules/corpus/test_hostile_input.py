"""Every hostile file of the sample web: nothing crashes, and every record is accounted for."""

from collections import Counter
from pathlib import Path

import pytest

from modules.corpus.addresses import canonical_url
from modules.corpus.document import Document, read_documents
from modules.corpus.extract import ExtractConfig, extract_text
from modules.corpus.links import LinksConfig, collect_links
from modules.corpus.pages import PagesConfig, select_pages
from modules.files import read_jsonl, write_jsonl

CONTAINERS = [f"https://hostile.example.com/container-{i}" for i in range(6)]


def run(folder: Path, urls: set[str], warcs: list[Path], root: Path):
    """Take links through pages and extraction; return (documents by url, reasons, counts)."""
    pages, text = folder / "pages", folder / "text"
    pages.mkdir()
    text.mkdir()
    write_jsonl(folder / "links.jsonl.zst", ({"url": url} for url in sorted(urls)))
    selected = select_pages(folder / "links.jsonl.zst", warcs, root, pages, PagesConfig())
    extracted = extract_text(pages, root, text, ExtractConfig(shard_pages=20))
    documents = {document.url: document for document in read_documents(text)}
    dropped = [pages / "dropped.jsonl.zst", *sorted(text.glob("dropped-*"))]
    reasons = {row["url"]: row["reason"] for path in dropped for row in read_jsonl(path)}
    assert selected["links"] == len(urls)
    assert selected["links"] == selected["pages"] + selected["merged_links"] + selected["dropped"]
    assert selected["pages"] == extracted["pages"]
    assert extracted["pages"] == extracted["documents"] + extracted["dropped"]
    assert extracted["documents"] == len(documents)
    return documents, reasons, selected


@pytest.fixture(scope="module", params=["sample", "larger"])
def hostile(request, tmp_path_factory):
    """Return (rows of the truth, documents, reasons) for one set."""
    name = "data" if request.param == "sample" else "shared_data"
    folder = request.getfixturevalue(name) / "web" / "hostile"
    truth = list(read_jsonl(folder / "hostile_truth.jsonl"))
    urls: dict[str, dict] = {}
    for row in truth:
        try:
            urls.setdefault(canonical_url(row["url"]), row)
        except ValueError as error:  # links would have dropped it
            assert row["expect"] != "text", f"{row['case']}: {error}"
    out = tmp_path_factory.mktemp(request.param)
    documents, reasons, _ = run(out, set(urls), [folder / "hostile.warc.gz"], folder)
    return urls, documents, reasons


def test_every_case_does_what_is_expected_of_it(hostile):
    urls, documents, reasons = hostile
    wrong = []
    for url, row in urls.items():
        assert (url in documents) != (url in reasons), row["case"]
        if row["expect"] != "any" and (row["expect"] == "text") != (url in documents):
            wrong.append((row["case"], reasons.get(url) or documents[url].text[:80]))
        text = documents[url].text.replace("\n", " ") if url in documents else ""
        if row["must_contain"] and row["must_contain"] not in text:
            wrong.append((row["case"], text[:200]))
    assert wrong == []


def test_documents_hold_nothing_that_breaks_later_steps(hostile):
    _, documents, _ = hostile
    for document in documents.values():
        assert isinstance(document, Document)
        assert document.text.encode("utf-8")
        assert not set(document.text) & set("\x00\x1b\u200b\ufeff\u2028\r")
        assert len(document.text) < 5 * 2**20
        assert "root:" not in document.text  # no external entity was read
        assert document.meta["n_replaced"] >= 0


def test_reasons_of_hostile_pages(hostile):
    urls, documents, reasons = hostile
    by_case = {row["case"]: reasons.get(url) for url, row in urls.items()}
    assert by_case["huge-6MB"] == by_case["gzip-bomb-20MB"] == "too_large_decoded"
    assert by_case["empty-body"] == by_case["whitespace-only"] == "empty"
    assert by_case["nav-only"] == "only-links"
    assert by_case["png-as-html"] == by_case["json-page"] == "not-html"
    assert by_case["redirect-loop-a"] == by_case["redirect-self"] == "redirect-loop"
    bad = next(url for url, row in urls.items() if row["case"] == "bad-utf8-bytes")
    assert documents[bad].meta["n_replaced"] > 0


@pytest.mark.parametrize(
    ("name", "n_pages", "reasons"),
    [
        ("empty.warc.gz", 0, ["empty"]),
        ("not-a-warc.warc.gz", 0, ["not-a-warc"]),
        ("bad-header.warc", 5, ["bad-header"]),
        ("truncated.warc.gz", 5, ["truncated"]),
        ("one-member.warc.gz", 6, []),
    ],
)
def test_broken_containers(data, tmp_path, name, n_pages, reasons):
    folder = data / "web" / "hostile"
    documents, _, counts = run(tmp_path, set(CONTAINERS), [folder / name], folder)
    rejected = list(read_jsonl(tmp_path / "pages" / "rejected.jsonl.zst"))
    assert [row["reason"] for row in rejected] == reasons
    assert all(row["file"] == name for row in rejected)
    assert counts["pages"] == n_pages
    assert len(documents) == n_pages


def test_broken_containers_do_not_harm_whole_ones(data, tmp_path):
    folder = data / "web" / "hostile"
    warcs = sorted(path for path in folder.iterdir() if ".warc" in path.name)
    urls = {"https://hostile.example.com/twice", *CONTAINERS}
    documents, _, counts = run(tmp_path, urls, warcs, folder)
    assert set(documents) == urls
    rejected = list(read_jsonl(tmp_path / "pages" / "rejected.jsonl.zst"))
    reasons = ["bad-header", "empty", "long-url", "not-a-warc", "truncated"]
    assert sorted(row["reason"] for row in rejected) == reasons
    assert counts["rejected"] == len(reasons)


def test_hostile_dumps(data, tmp_path):
    folder = data / "web" / "hostile"
    counts = collect_links(sorted(folder.glob("RS_*.zst")), tmp_path, LinksConfig())
    rejected = list(read_jsonl(tmp_path / "rejected.jsonl.zst"))
    dropped = Counter(row["reason"] for row in read_jsonl(tmp_path / "dropped.jsonl.zst"))
    links = {row["url"] for row in read_jsonl(tmp_path / "links.jsonl.zst")}
    containers = [row for row in rejected if row["reason"].startswith("container")]
    assert {row["file"] for row in containers} == {"RS_empty.zst", "RS_truncated.zst"}
    lines = counts["submissions"] + counts["dropped"] + counts["rejected"] - len(containers)
    assert counts["lines"] == lines == 124
    assert dropped["wikipedia"] == 2
    assert dropped["not-public"] == 4
    assert "https://example.com/Upper" in links
    assert "https://notwikipedia.org/wiki/X" in links
    assert not any("secret" in url or url.startswith(("file", "ftp", "data")) for url in links)
