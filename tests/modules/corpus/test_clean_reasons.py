"""Cleaning: each page stays or goes for the reason expected, in one order; what is refused."""

import os
import subprocess
import sys

import pytest

from modules.corpus.clean import clean, read_extra
from modules.corpus.document import (
    Document,
    document_id,
    read_documents,
    shard_path,
    write_documents,
)
from modules.corpus.recipe import CleanConfig, FilterConfig
from modules.files import read_jsonl, write_jsonl
from tests.modules.corpus.web_pages import CONFIG, GERMAN, ROOT, TEXT, digests, page


def web() -> list[Document]:
    fish = TEXT.format("fish") + TEXT.format("whale") + TEXT.format("crab") + TEXT.format("eel")
    return [
        page("https://a.example/fish", fish, date="2018-01-01"),
        page("https://b.example/copy", fish.upper(), date="2018-01-02"),
        page("https://c.example/near", fish + "One more line here.", date="2018-01-03"),
        page("https://d.example/ship", TEXT.format("ship")),
        page("https://e.example/short", "The sea."),
        page("https://f.example/de", GERMAN),
        page("https://en.wikipedia.org/wiki/Sea", TEXT.format("storm")),
    ]


EXPECTED = {
    "https://b.example/copy": "exact_duplicate",
    "https://c.example/near": "near_duplicate",
    "https://e.example/short": "too_short",
    "https://f.example/de": "other_language",
    "https://en.wikipedia.org/wiki/Sea": "from_wikipedia",
}


@pytest.fixture
def extracted(tmp_path):
    documents = web()
    write_documents(shard_path(tmp_path / "text", 0), documents[:4])
    write_documents(shard_path(tmp_path / "text", 1), documents[4:])
    return tmp_path / "text"


def test_every_page_stays_or_goes_for_the_reason_expected(extracted, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    counts = clean(extracted, [], out, CONFIG)
    dropped = {row["url"]: row for row in read_jsonl(out / "dropped-00000.jsonl.zst")}
    assert {url: row["reason"] for url, row in dropped.items()} == EXPECTED
    kept = list(read_documents(out))
    assert {d.url for d in kept} == {d.url for d in web()} - set(EXPECTED)
    assert counts == {
        "read": 7,
        "kept": 2,
        "kept_bytes": sum(len(d.text.encode()) for d in kept),
        **{f"dropped.{reason}": 1 for reason in EXPECTED.values()},
    }
    fish = document_id("https://a.example/fish")
    assert dropped["https://b.example/copy"]["detail"] == f"{fish} 1.000"
    assert dropped["https://c.example/near"]["detail"].startswith(f"{fish} 0.9")
    assert dropped["https://f.example/de"]["detail"].startswith("de ")
    assert {d.lang for d in kept} == {"en"}


def test_ready_made_text_joins_with_its_split_and_skips_the_web_filters(extracted, extra, tmp_path):
    out = tmp_path / "out"
    counts = clean(extracted, [extra], out, CONFIG)
    assert counts["read"] == 10 and counts["kept"] == 5
    kept = {d.id: d for d in read_documents(out)}
    first = kept[document_id("kjv:kjv-1")]
    assert (first.text, first.title, first.source) == ("In the beginning.", "One", "kjv")
    assert first.meta == {"split": "train", "license": "PD", "source_id": "kjv-1"}
    assert kept[document_id("kjv:kjv-2")].meta["split"] == "test"
    assert "split" not in kept[document_id("own:plain")].meta


def test_a_page_that_copies_a_test_text_goes(tmp_path):
    text = TEXT.format("fish") * 2
    write_documents(shard_path(tmp_path / "text", 0), [page("https://a.example/", text, date="1")])
    rows = [{"id": "t", "source": "s", "split": "test", "text": text}]
    write_jsonl(tmp_path / "extra.jsonl", rows)
    clean(tmp_path / "text", [tmp_path / "extra.jsonl"], tmp_path / "out", CONFIG)
    assert [d.source for d in read_documents(tmp_path / "out")] == ["s"]


def test_documents_are_in_the_order_of_their_ids_in_shards_of_the_size_asked_for(tmp_path):
    documents = [page(f"https://a.example/{i}", TEXT.format(f"x{i}")) for i in range(25)]
    write_documents(shard_path(tmp_path / "text", 0), documents)
    config = CONFIG.but(shard_documents=10, dedup=None)
    clean(tmp_path / "text", [], tmp_path / "out", config)
    sizes = [len(list(read_documents(p))) for p in sorted((tmp_path / "out").glob("documents-*"))]
    assert sizes == [10, 10, 5]
    ids = [d.id for d in read_documents(tmp_path / "out")]
    assert ids == sorted(d.id for d in documents)


def test_the_result_depends_on_neither_order_nor_leftovers(extracted, extra, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    clean(extracted, [extra], first, CONFIG)
    again = tmp_path / "again"
    write_documents(shard_path(again, 0), web()[::-1])
    (second / ".work.tmp").mkdir(parents=True)
    (second / ".work.tmp" / "kept-00.jsonl.zst").write_bytes(b"left by a killed try")
    write_documents(shard_path(second, 7), web())
    clean(again, [extra], second, CONFIG)
    assert digests(first) == digests(second)
    assert sorted(digests(first)) == [
        "documents-00000.jsonl.zst",
        "dropped-00000.jsonl.zst",
        "sketches-00000.npy",
        "sketches.json",
    ]


def test_the_result_does_not_depend_on_the_hash_seed(extracted, extra, tmp_path):
    code = (
        "import sys; from pathlib import Path; from modules.corpus.clean import *\n"
        "clean(Path(sys.argv[1]), [Path(sys.argv[2])], Path(sys.argv[3]),"
        " CleanConfig(filters=FilterConfig(min_words=20)))"
    )
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", code, str(extracted), str(extra), str(tmp_path / seed)],
            check=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed, "TZ": f"UTC{seed}", "LANG": "C"},
        )
    assert digests(tmp_path / "1") == digests(tmp_path / "2")


# --- refusals ---


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "1", "source": "s"}, r"row 2: column 'text' is missing .* there are id, source"),
        ({"id": 1, "source": "s", "text": "t"}, "row 2: column 'id' is missing or no text"),
        ({"id": "1", "source": "s", "text": "t", "split": "dev"}, "row 2: split 'dev' is none of"),
    ],
)
def test_wrong_columns_of_a_text_set_are_named(row, message, tmp_path):
    good = {"id": "0", "source": "s", "text": "t"}
    write_jsonl(tmp_path / "rows.jsonl", [good, row])
    with pytest.raises(ValueError, match=r"rows\.jsonl, " + message):
        list(read_extra(tmp_path / "rows.jsonl"))


def test_the_same_text_set_twice_is_an_error(extracted, extra, tmp_path):
    with pytest.raises(ValueError, match=r"kjv kjv-\d and kjv kjv-\d have the same id"):
        clean(extracted, [extra, extra], tmp_path / "out", CONFIG)


def test_nothing_left_is_an_error(tmp_path):
    write_documents(shard_path(tmp_path / "text", 0), [page("https://a.example/", "short")])
    with pytest.raises(ValueError, match=r"no document is left.*too_short"):
        clean(tmp_path / "text", [], tmp_path / "out", CONFIG)


def test_no_extracted_text_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no documents-NNNNN"):
        clean(tmp_path, [], tmp_path / "out", CONFIG)


@pytest.mark.parametrize("name", ["../../x", "", "0123456789ABCDEF"])
def test_a_foreign_id_is_refused(name, tmp_path):
    write_documents(shard_path(tmp_path / "text", 0), [Document(name, TEXT)])
    with pytest.raises(ValueError, match="16 hex"):
        clean(tmp_path / "text", [], tmp_path / "out", CONFIG)


def test_the_config_refuses_misspelt_fields_and_goes_through_json():
    with pytest.raises(ValueError, match="min_word"):
        FilterConfig(min_word=3)  # type: ignore[call-arg]
    config = CONFIG.but(dedup={"near_threshold": 0.5})
    assert CleanConfig.model_validate_json(config.model_dump_json()) == config
