"""The story of one address: how it went at every step, over one night or several."""

from dataclasses import asdict

import pytest

from modules.corpus.document import Document, document_id, shard_path
from modules.corpus.lookup import find_document, find_rows
from modules.corpus.story import nearest, tell
from modules.files import write_json, write_jsonl

HOST = "https://docs.example.org/"
FILTERS = ("empty", "too_short", "other_language")


def document(name: str, **changes) -> Document:
    url = HOST + name
    meta = {"charset": "iso-8859-1", "n_replaced": 3, "lang_probability": 0.98}
    text = f"some text about {name}"
    values = {"id": document_id(url), "url": url, "text": text, "lang": "en", "meta": meta}
    return Document(**values | changes)


def link(name: str) -> dict:
    posts = {"submissions": ["a1", "a2"], "created": 1537166160, "subreddits": ["python"]}
    return {"url": HOST + name, "score": 12, **posts}


def stored(name: str, *others: str) -> dict:
    place = {"warc": "web/p.warc.gz", "offset": 1234, "index": 0, "date": "2019-01-01T00:00:00Z"}
    links = [HOST + other for other in others]
    return {"url": HOST + name, "final_url": HOST + name, "redirected_from": links} | place


def gone(name: str, reason: str, detail: str = "") -> dict:
    url = HOST + name
    return {"id": document_id(url), "url": url, "reason": reason, "detail": detail}


@pytest.fixture
def night(tmp_path) -> dict:
    """A corpus in which each address is named after where its story ends."""
    kept = [document("kept"), document("target")]
    kept.append(Document(id=document_id("kjv:1"), text="In the beginning", source="kjv"))
    names = ("kept", "no-page", "hollow", "short", "copy", "old")
    links = [link(name) for name in names]
    posts = [("kept", "a3"), ("unloved", "a4"), ("target", "a5")]
    drops = [
        {"url": HOST + name, "reason": "low-karma", "id": id, "file": "RS.zst"}
        for name, id in posts
    ]
    pages = [stored("kept"), stored("target", "old"), *map(stored, ("hollow", "short", "copy"))]
    near = f"{document_id(HOST + 'kept')} 0.912"
    rows = [gone("short", "too_short", "9 words"), gone("copy", "near_duplicate", near)]
    where = {x: tmp_path / x for x in ("links", "pages", "text", "documents", "tokens")}
    write_jsonl(where["links"] / "links.jsonl.zst", links)
    write_jsonl(where["links"] / "dropped.jsonl.zst", drops)
    write_jsonl(where["pages"] / "pages.jsonl.zst", pages)
    missing = [{"url": HOST + "no-page", "reason": "http-404"}]
    write_jsonl(where["pages"] / "dropped.jsonl.zst", missing)
    write_jsonl(where["text"] / "dropped-00000.jsonl.zst", [gone("hollow", "empty")])
    stay = [asdict(d) for d in sorted(kept, key=lambda d: d.id)]
    for number, row in enumerate(stay):
        write_jsonl(shard_path(where["documents"], number), [row])
    write_jsonl(where["documents"] / "dropped-00000.jsonl.zst", rows)
    spans = [{"id": row["id"], "start": 6 * i, "length": 6} for i, row in enumerate(stay)]
    write_jsonl(where["tokens"] / "train-documents.jsonl.zst", spans)
    shards = [{"file": f"train-0000{i}.bin", "tokens": 10} for i in range(2)]
    entry = {"shards": shards, "spans": [{"file": "train-documents.jsonl.zst"}]}
    write_json(where["tokens"] / "index.json", {"splits": {"train": entry}})
    return where


@pytest.mark.parametrize(
    ("name", "steps", "words"),
    [
        ("kept", "links+ pages+ text+ documents+ tokens+", "it is in the corpus"),
        ("unloved", "links- pages.", "ends at links: low-karma: submission a4 in RS.zst"),
        ("no-page", "links+ pages-", "ends at pages: http-404"),
        ("hollow", "links+ pages+ text-", "ends at text: empty"),
        ("short", "links+ pages+ text+ documents-", "ends at documents: too_short (9 words)"),
        ("copy", "links+ pages+ text+ documents-", f"near_duplicate of {HOST}kept"),
        ("old", "links+ pages+ text+ documents+ tokens+", "it is in the corpus"),
        ("target", "links- links+ pages+ text+ documents+ tokens+", "it is in the corpus"),
        ("nowhere", "links. pages.", "no step has seen it"),
    ],
)
def test_the_story_ends_where_it_ended(night, name, steps, words):
    story = tell(HOST + name, [night], filters=FILTERS)
    marks = {"kept": "+", "dropped": "-", "absent": "."}
    assert " ".join(x.step + marks[x.outcome] for x in story.chapters) == steps
    assert words in story.end
    assert story.known == (name != "nowhere")


@pytest.mark.parametrize(
    ("name", "step", "facts"),
    [
        ("kept", "links", ["score 12, submissions: a1, a2", "2018-09-17 06:36 UTC", "in python"]),
        ("kept", "links", ["not counted, low-karma: submission a3 in RS.zst"]),
        ("kept", "pages", ["web/p.warc.gz, offset 1,234, status 200, fetched 2019-01-01"]),
        ("kept", "text", ["charset iso-8859-1, 3 characters replaced"]),
        ("kept", "documents", ["4 words", "language en (0.98)", f"stays for {HOST}copy"]),
        ("kept", "documents", ["passed empty, too_short, other_language"]),
        ("short", "documents", ["passed empty"]),
        ("copy", "documents", ["Jaccard 0.912", "passed empty, too_short, other_language"]),
        ("old", "pages", [f"{HOST}old led to {HOST}target"]),
    ],
)
def test_facts(night, name, step, facts):
    story = tell(HOST + name, [night], filters=FILTERS)
    told = "\n".join(next(x.facts for x in story.chapters if x.step == step and x.facts))
    assert all(fact in told for fact in facts), told


def test_the_place_of_the_tokens_is_told_shard_by_shard(night):
    places = set()
    for id in (document_id(HOST + "kept"), document_id(HOST + "target"), document_id("kjv:1")):
        places.add(tuple(tell(id, [night]).chapters[-1].facts))
    assert places == {
        ("train, tokens 0 to 5 (6)", "train-00000.bin, positions 0 to 5"),
        (
            "train, tokens 6 to 11 (6)",
            "train-00000.bin, positions 6 to 9",
            "train-00001.bin, positions 0 to 1",
        ),
        ("train, tokens 12 to 17 (6)", "train-00001.bin, positions 2 to 7"),
    }


def test_ids_and_spellings(night):
    by_id = tell(document_id(HOST + "short"), [night])
    assert by_id.address == HOST + "short" and by_id.chapters[-1].step == "documents"
    assert tell("HTTPS://docs.EXAMPLE.org:443/kept?utm_source=x#top", [night]).known
    ready = tell(document_id("kjv:1"), [night])
    assert ready.address == "" and "kjv" in ready.chapters[0].facts[0] and ready.known


@pytest.mark.parametrize(
    "given", ["nonsense", "ftp://x.org/", "https:///", "f" * 16, "a\0b", "\udcff"]
)
def test_what_is_no_address_is_refused(night, given):
    with pytest.raises(ValueError, match=r"no address|has the id"):
        tell(given, [night])


def test_older_nights_are_asked_too(night, tmp_path):
    """Only documents and tokens are carried over; links and pages are those of each night."""
    new = {step: tmp_path / "new" / step for step in ("links", "pages", "text")}
    write_jsonl(new["links"] / "links.jsonl.zst", [link("tonight")])
    write_jsonl(new["links"] / "dropped.jsonl.zst", [])
    write_jsonl(new["pages"] / "pages.jsonl.zst", [])
    write_jsonl(new["pages"] / "dropped.jsonl.zst", [])
    nights = [night | new, night]
    assert tell(HOST + "kept", nights).end == "it is in the corpus"
    assert tell(HOST + "tonight", nights).chapters[0].outcome == "kept"
    assert not tell(HOST + "nowhere", nights).known


def test_a_page_that_was_read_again_is_still_in_the_corpus(night):
    """The new copy goes as already_kept; the document of the older corpus stays."""
    write_jsonl(night["documents"] / "dropped-00001.jsonl.zst", [gone("kept", "already_kept")])
    assert tell(HOST + "kept", [night]).end == "it is in the corpus"


def test_the_ledger_is_asked_where_there_is_one(night):
    ledger = {HOST + "kept": ["fetched, 1 attempt"]}
    story = tell(HOST + "kept", [night], ledger=lambda url: ledger.get(url, []))
    assert [x.step for x in story.chapters][:3] == ["links", "ledger", "pages"]
    assert story.chapters[1].facts == ["fetched, 1 attempt"]
    other = tell(HOST + "copy", [night], ledger=lambda url: ledger.get(url, []))
    assert other.chapters[1].outcome == "absent" and "ends at documents" in other.end


def test_the_nearest_addresses_of_the_host(night):
    count, like = nearest(HOST + "kep", [night])
    assert count == 6 and like[0] == HOST + "kept"
    assert nearest("https://elsewhere.org/", [night]) == (0, [])


@pytest.mark.parametrize("cut", range(5))
def test_documents_are_found_in_shards_carried_over(tmp_path, cut):
    """Two runs of shards, each in the order of the ids, the second numbered on behind the first."""
    ids = sorted(document_id(str(i)) for i in range(40))
    old = sorted(ids[cut::3])
    new = sorted(set(ids) - set(old))
    number = 0
    for run in (old, new):
        for start in range(0, len(run), 4):
            rows = [asdict(Document(id=id, text=id)) for id in run[start : start + 4]]
            write_jsonl(shard_path(tmp_path, number), rows)
            number += 1
    for id in ids:
        found = find_document(tmp_path, id)
        assert found is not None and found.id == id
    assert find_document(tmp_path, document_id("none")) is None


def test_rows_are_found_by_what_they_hold(tmp_path):
    rows = [{"url": 'https://x.org/"a"\\'}, {"url": "https://x.org/ä"}, {"url": "https://x.org/"}]
    write_jsonl(tmp_path / "a.jsonl.zst", rows)
    for row in rows[:2]:
        assert list(find_rows(tmp_path / "a.jsonl.zst", row["url"])) == [row]
    assert list(find_rows(tmp_path / "a.jsonl.zst", "https://x.org/")) == rows
