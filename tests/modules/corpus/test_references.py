"""Documents that hold evaluation text, and copies of Wikipedia on the sample's other hosts."""

from collections import Counter

import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from modules import tasks
from modules.corpus.clean import clean
from modules.corpus.document import Document, document_id, shard_path, write_documents
from modules.corpus.filters import Dropped, apply
from modules.corpus.recipe import CleanConfig, FilterConfig, excluded
from modules.corpus.references import (
    References,
    wikipedia_texts,
    write_reference,
    write_references,
)
from modules.files import read_jsonl, write_jsonl


def steps_for(tmp_path, texts, **limits):
    """The recipe's steps against one reference of each kind."""
    path = tmp_path / "known.npy"
    write_reference(texts, path)
    return excluded(FilterConfig(**limits), References(path, path))


def test_documents_that_hold_evaluation_text_are_reported_or_dropped(tmp_path):
    known, other = (" ".join(f"{letter}{i}" for i in range(27)) for letter in "ab")  # 20 8-grams
    mixed = Document("x", f"{known.upper()} {other}")
    found = apply(steps_for(tmp_path, [known], max_in_evaluation=1.0), mixed)
    assert isinstance(found, Document)
    assert found.meta == {"in_evaluation": round(20 / 47, 4)}
    strict = steps_for(tmp_path, [known], max_in_evaluation=0.4)
    dropped = apply(strict, mixed)
    assert isinstance(dropped, Dropped)
    assert (dropped.reason, dropped.detail) == ("in_evaluation_set", "0.43 of its 8-grams")
    assert apply(strict, Document("x", other)) == Document("x", other)
    assert apply(strict, Document("x", "short")) == Document("x", "short")


def test_a_rule_without_its_reference_is_refused(tmp_path):
    with pytest.raises(ValueError, match="max_in_wikipedia is set, but there is no reference"):
        excluded(FilterConfig(max_in_wikipedia=0.3), References())
    with pytest.raises(ValueError, match="no reference text has 8 words"):
        write_reference(["too short"], tmp_path / "wikipedia.npy")
    write_jsonl(tmp_path / "rows.jsonl", [{"title": "no text"}])
    with pytest.raises(ValueError, match="row 1: column 'text' is missing"):
        list(wikipedia_texts([tmp_path / "rows.jsonl"]))


def test_references_are_written_for_what_is_asked(data, tmp_path):
    assert write_references(tmp_path) == References()
    known = write_references(tmp_path, evaluation=[tasks.get("lambada_like")], data=data)
    assert known == References(evaluation=tmp_path / "evaluation.npy")
    passage = next(read_jsonl(data / "zeroshot" / "lambada_like.jsonl.zst"))["text"]
    steps = excluded(FilterConfig(max_in_evaluation=0.2), known)
    assert isinstance(apply(steps, Document("x", passage)), Dropped)


def test_copies_of_wikipedia_are_found_by_its_own_pages(data, tmp_path):
    """The sample has three of them on another host; no other page shares 8-grams to speak of."""
    truth = {row["url"]: row for row in read_jsonl(data / "web" / "truth.jsonl.zst")}
    documents = [page for page in pages(data) if page.url in truth]
    write_documents(shard_path(tmp_path / "text", 0), documents)
    known = write_references(tmp_path, wikipedia=[tmp_path / "text"])
    steps = excluded(FilterConfig(max_in_wikipedia=0.3), known)
    gone = Counter(truth[d.url]["kind"] for d in documents if isinstance(apply(steps, d), Dropped))
    assert gone == {"wikipedia": 10, "wikipedia-copy": 3}
    assert len(documents) > 1000


def pages(data):
    """The stored pages of the sample as documents, by libraries alone."""
    for path in sorted((data / "web").glob("pages-*.warc.gz")):
        for record in ArchiveIterator(path.open("rb"), record_types=WarcRecordType.response):
            record.parse_http()
            if record.http_headers.status_code == 200 and record.http_content_type == "text/html":
                tree = HTMLTree.parse_from_bytes(record.reader.read(), "utf-8")
                url = record.headers["WARC-Target-URI"]
                yield Document(document_id(url), extract_plain_text(tree), url=url)


def test_a_whole_cleaning_drops_and_counts(tmp_path):
    """`clean` hands the references to its workers and sums up what was masked."""
    known, other = (" ".join(f"{letter}{i}" for i in range(27)) for letter in "ab")
    texts = [known, other, "Ask a.b@gmx.de or c.d@gmx.de from 81.2.69.142 about it all"]
    write_documents(shard_path(tmp_path / "text", 0), [Document(document_id(t), t) for t in texts])
    write_jsonl(tmp_path / "known.jsonl", [{"text": known}])
    rules = FilterConfig(languages=(), min_words=5, max_in_wikipedia=0.5, mask=("mail", "ip"))
    config = CleanConfig(filters=rules)
    references = write_references(tmp_path, wikipedia=[tmp_path / "known.jsonl"])
    counts = clean(tmp_path / "text", [], tmp_path / "out", config, known=references)
    assert counts["dropped.wikipedia_copy"] == 1
    assert (counts["kept"], counts["masked.mail"], counts["masked.ip"]) == (2, 2, 1)
