"""The whole cleaning: nothing lost, each reason counted, the same bytes every time, the truth."""

import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from itertools import combinations
from pathlib import Path

import pytest

from modules import files
from modules.corpus import clean as clean_module
from modules.corpus import filtering, runs
from modules.corpus.clean import clean, read_extra
from modules.corpus.dedup import DedupConfig
from modules.corpus.document import (
    Document,
    document_id,
    read_documents,
    shard_path,
    write_documents,
)
from modules.corpus.recipe import CleanConfig, FilterConfig
from modules.corpus.shingles import jaccard, shingles
from modules.corpus.sketches import sketch
from modules.files import read_jsonl, write_jsonl
from modules.parallel import processes

ROOT = Path(__file__).parents[3]
DATA = ROOT / "data"
TEXT = (
    "This is a page about the {0} of the sea and what it has to do with the {0} that we see. "
    "There are many of them, and each {0} has a story to be told to those who listen to it. "
)
GERMAN = "Das ist eine Seite über das Meer und was es mit uns allen zu tun hat, wie man sieht. " * 3


def page(url: str, text: str, **rest) -> Document:
    return Document(document_id(url), text, url=url, **rest)


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
CONFIG = CleanConfig(filters=FilterConfig(min_words=20))


@pytest.fixture
def extracted(tmp_path):
    documents = web()
    write_documents(shard_path(tmp_path / "text", 0), documents[:4])
    write_documents(shard_path(tmp_path / "text", 1), documents[4:])
    return tmp_path / "text"


@pytest.fixture
def extra(tmp_path):
    rows = [
        {"id": "kjv-1", "source": "kjv", "title": "One", "license": "PD", "split": "train",
         "text": "In the beginning."},
        {"id": "kjv-2", "source": "kjv", "title": "Two", "split": "test", "text": "And it was."},
        {"id": "plain", "source": "own", "text": "Seul un mot français."},
    ]  # fmt: skip
    write_jsonl(tmp_path / "extra.jsonl.zst", rows)
    return tmp_path / "extra.jsonl.zst"


def digests(directory: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(directory.iterdir())}


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


# --- in pieces, in processes, again ---


def many(count: int, first: int = 0) -> list[Document]:
    """Pages of all kinds: copies, near copies, pages that go for another reason."""
    documents = []
    for i in range(first, first + count):
        words = random.Random(i if i % 5 else i // 10).choices(TEXT.split(), k=60)
        text = " ".join(words) + (f" The end, {i}." if i % 2 else "")
        text = GERMAN + str(i) if i % 11 == 0 else text
        documents.append(page(f"https://a.example/{i}", text, date=f"2018-01-{i % 28 + 1:02}"))
    return documents


@pytest.fixture
def shards(tmp_path):
    documents = many(120)
    for number in range(6):
        write_documents(shard_path(tmp_path / "many", number), documents[number::6])
    return tmp_path / "many"


def test_other_processes_small_runs_and_merges_change_nothing(shards, extra, tmp_path, monkeypatch):
    config = CONFIG.but(shard_documents=20)
    expected = clean(shards, [extra], tmp_path / "first", config)
    with processes(2) as spread:
        counts = clean(shards, [extra], tmp_path / "second", config, spread=spread)
    assert counts == expected and expected["dropped.near_duplicate"] > 5
    assert digests(tmp_path / "second") == digests(tmp_path / "first")
    monkeypatch.setattr(filtering, "RUN_ROWS", 3)
    monkeypatch.setattr(runs, "FAN_IN", 2)
    monkeypatch.setattr(runs, "ROWS", 2)
    assert clean(shards, [extra], tmp_path / "third", config) == expected
    assert digests(tmp_path / "third") == digests(tmp_path / "first")


def test_a_kill_at_any_write_costs_nothing(shards, extra, tmp_path, monkeypatch):
    """Stop before the n-th file becomes whole, for every n, and start again."""
    monkeypatch.setattr(files, "fsync_directory", lambda path: None)
    expected = clean(shards, [extra], tmp_path / "first", CONFIG)
    out, replace, left = tmp_path / "out", Path.replace, 0

    def replace_or_die(self, target):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replace_or_die)
    tries = 0
    while True:
        tries, left = tries + 1, tries
        with contextlib.suppress(KeyboardInterrupt):
            counts = clean(shards, [extra], out, CONFIG)
            break
    assert tries > 10
    assert counts == expected
    assert digests(out) == digests(tmp_path / "first")


def test_finished_units_are_not_done_again_unless_the_plan_is_another(
    shards, tmp_path, monkeypatch
):
    def interrupted(*args, **rest):
        raise KeyboardInterrupt

    sketched = []
    monkeypatch.setattr(clean_module, "find_duplicates", interrupted)
    monkeypatch.setattr(filtering, "sketch", lambda *a: sketched.append(a) or sketch(*a))
    for config, expected in [(CONFIG, 6), (CONFIG, 6), (CONFIG.but(shard_documents=9), 12)]:
        with pytest.raises(KeyboardInterrupt):
            clean(shards, [], tmp_path / "out", config)
        assert len(sketched) == expected


@pytest.mark.slow  # a minute
@pytest.mark.timeout(600)
def test_kills_with_two_workers_lose_and_double_nothing(shards, extra, tmp_path):
    """SIGKILL the step 20 times, each time a little later, then let it end."""
    code = (
        "import sys; from pathlib import Path; from modules.corpus.clean import *\n"
        "from modules.parallel import processes\n"
        "if __name__ == '__main__':\n"
        "    with processes(2) as spread:\n"
        "        print('begun', flush=True)\n"
        "        clean(Path(sys.argv[1]), [Path(sys.argv[2])], Path(sys.argv[3]),"
        " CleanConfig(filters=FilterConfig(min_words=20)), spread=spread)"
    )
    (tmp_path / "step.py").write_text(code)
    paths = [tmp_path / "step.py", shards, extra, tmp_path / "out"]
    expected = clean(shards, [extra], tmp_path / "first", CONFIG)
    killed = 0
    for number in range(21):
        run = subprocess.Popen(
            [sys.executable, *map(str, paths)],
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert run.stdout and run.stdout.readline() == b"begun\n"
        if number < 20:
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.wait(0.25 * number)
            run.kill()
            killed += run.wait() == -signal.SIGKILL
        assert number < 20 or run.wait() == 0
    assert killed >= 5 and expected["kept"] > 20
    assert digests(tmp_path / "out") == digests(tmp_path / "first")


# --- on top of an older corpus ---


def test_new_documents_join_an_older_corpus(tmp_path):
    config = CONFIG.but(shard_documents=20)
    documents = many(150)
    write_documents(shard_path(tmp_path / "june", 0), documents[:70])
    write_documents(shard_path(tmp_path / "july", 0), documents[60:])  # ten are there already
    old, new = tmp_path / "old", tmp_path / "new"
    clean(tmp_path / "june", [], old, config)
    before = digests(old)
    counts = clean(tmp_path / "july", [], new, config, base=old)
    assert digests(old) == before
    after = digests(new)
    carried = {name for name in before if name != "sketches.json"}
    assert {name: after[name] for name in carried} == {name: before[name] for name in carried}
    assert (new / "documents-00000.jsonl.zst").samefile(old / "documents-00000.jsonl.zst")
    kept = list(read_documents(new))
    assert len({d.id for d in kept}) == len(kept) == counts["carried"] + counts["kept"]
    rows = [row for p in sorted(new.glob("dropped-*")) for row in read_jsonl(p)]
    assert {r["id"] for r in rows} | {d.id for d in kept} == {d.id for d in documents}
    older = [row for row in rows if row["detail"].endswith(" older")]
    ids = {d.id for d in read_documents(old)}
    assert {row["reason"] for row in older} == {"already_kept", "exact_duplicate", "near_duplicate"}
    assert all(row["detail"].split()[0] in ids for row in older)
    sets = [shingles(d.text, 5) for d in kept]
    assert all(jaccard(a, b) < 0.7 for a, b in combinations(sets, 2))


def test_a_night_without_news_adds_nothing(shards, tmp_path):
    clean(shards, [], tmp_path / "old", CONFIG)
    counts = clean(shards, [], tmp_path / "new", CONFIG, base=tmp_path / "old")
    assert counts["kept"] == 0 and counts["dropped.already_kept"] == counts["carried"] > 0
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [
        "documents-00000.jsonl.zst",
        "dropped-00000.jsonl.zst",
        "dropped-00001.jsonl.zst",
        "sketches-00000.npy",
        "sketches.json",
    ]


@pytest.mark.parametrize("lost", ["sketches.json", "settings", "all"])
def test_an_older_corpus_without_fitting_sketches_is_sketched_again(lost, shards, tmp_path):
    write_documents(shard_path(tmp_path / "text", 0), many(60, first=100))
    clean(shards, [], tmp_path / "old", CONFIG)
    expected = clean(tmp_path / "text", [], tmp_path / "a", CONFIG, base=tmp_path / "old")
    if lost == "settings":
        shutil.rmtree(tmp_path / "old")
        clean(shards, [], tmp_path / "old", CONFIG)
        (tmp_path / "old" / "sketches.json").write_text('{"version": 0}')
    for path in (tmp_path / "old").glob(lost if lost == "sketches.json" else "sketches*"):
        path.unlink()
    assert clean(tmp_path / "text", [], tmp_path / "b", CONFIG, base=tmp_path / "old") == expected
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_three_nights_are_the_same_as_often_as_they_are_run(tmp_path):
    documents = many(150)
    for night in range(3):
        write_documents(shard_path(tmp_path / f"text{night}", 0), documents[night::3])
    results = []
    for again in "ab":
        base = None
        for night in range(3):
            out = tmp_path / f"{again}{night}"
            clean(tmp_path / f"text{night}", [], out, CONFIG, base=base)
            base = out
        results.append(digests(out))
    assert results[0] == results[1]
    kept = [d.text for d in read_documents(out)]
    assert len({text.lower() for text in kept}) == len(kept)


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


# --- against the truth of the sample ---


def truth_of(data: Path) -> dict[str, dict]:
    if not data.exists():
        pytest.skip(f"{data.name} of the sample data is not here (make data)")
    return {row["url"]: row for row in read_jsonl(data / "truth.jsonl.zst")}


def test_no_reference_text_of_the_sample_goes_without_a_reason(tmp_path):
    """None of these pages has a duplicate among them, though some are 0.78 alike."""
    truth = truth_of(DATA / "web")
    rows = list(read_jsonl(DATA / "web" / "main_text.jsonl.zst"))
    write_documents(
        shard_path(tmp_path / "text", 0), [page(r["url"], r["main_text"]) for r in rows]
    )
    # 0.8 is the truth's own limit on these texts, which no extractor has touched
    config = CleanConfig(
        filters=FilterConfig(min_words=0, languages=()), dedup=DedupConfig(near_threshold=0.8)
    )
    clean(tmp_path / "text", [], tmp_path / "out", config)
    kept = {d.url for d in read_documents(tmp_path / "out")}
    assert kept == {row["url"] for row in rows if not truth[row["url"]]["is_wikipedia"]}


def extracted_from(data: Path, at: Path) -> Path:
    """Take the text out of all pages of a sample."""
    from modules.corpus.extract import ExtractConfig, extract_text
    from modules.corpus.links import LinksConfig, collect_links
    from modules.corpus.pages import PagesConfig, select_pages

    for name in ("links", "pages", "text"):
        (at / name).mkdir()
    collect_links(sorted(data.glob("RS_*")), at / "links", LinksConfig())
    warcs = sorted(data.glob("pages-*.warc.gz"))
    select_pages(at / "links", warcs, data, at / "pages", PagesConfig())
    extract_text(at / "pages", data, at / "text", ExtractConfig())
    return at / "text"


@pytest.mark.slow
@pytest.mark.parametrize("data", [DATA / "web", ROOT.parent / "shared" / "data" / "web"])
def test_the_whole_chain_keeps_one_page_of_each_group_of_duplicates(data, tmp_path):
    """At least 99 % of the pages that extraction gives come out as the truth says."""
    truth = truth_of(data)
    extracted_from(data, tmp_path)
    config = CleanConfig(filters=FilterConfig(min_words=0, languages=()))
    clean(tmp_path / "text", [], tmp_path / "out", config)

    read = {d.id: d.url for d in read_documents(tmp_path / "text")}
    kept = {d.url for d in read_documents(tmp_path / "out")}
    wrong = []
    groups: dict[str, list[str]] = defaultdict(list)
    for row in read_jsonl(tmp_path / "out" / "dropped-00000.jsonl.zst"):
        page_truth = truth[row["url"]]
        if row["reason"] == "near_duplicate" and not page_truth["dup_group"]:
            like = dict(page_truth["near"] or []).get(read[row["detail"][:16]], 0)
            wrong += [row] if like < 0.5 else []  # 0.5 to 0.8 is a grey zone
        elif row["reason"] == "exact_duplicate" and not page_truth["dup_group"]:
            wrong.append(row)
    for url in read.values():
        if truth[url]["dup_group"] and not truth[url]["is_wikipedia"]:
            groups[truth[url]["dup_group"]].append(url)
        assert not (url in kept and truth[url]["is_wikipedia"])
    wrong += [urls for urls in groups.values() if sum(url in kept for url in urls) != 1]
    assert len(groups) > 90
    assert len(wrong) <= 0.01 * len(read), wrong


@pytest.mark.slow  # about 20 s each
@pytest.mark.parametrize("data", [DATA / "web", ROOT.parent / "shared" / "data" / "web"])
@pytest.mark.parametrize("grouping", ["star", "components"])
def test_pairs_of_the_truth_are_joined_and_others_are_not(
    grouping, data, tmp_path, record_property
):
    """99 % of the pairs at Jaccard 0.8 of the main texts have one survivor; none under 0.5 has."""
    truth, text = truth_of(data), extracted_from(data, tmp_path)
    read = {d.id: d.url for d in read_documents(text)}
    config = CleanConfig(
        filters=FilterConfig(min_words=0, languages=()), dedup=DedupConfig(grouping=grouping)
    )
    clean(text, [], tmp_path / "out", config)
    stays = {d.url: d.url for d in read_documents(tmp_path / "out")}
    for row in read_jsonl(tmp_path / "out" / "dropped-00000.jsonl.zst"):
        if row["reason"].endswith("duplicate"):
            stays[row["url"]] = read[row["detail"][:16]]
    near = {(u, v): j for u, row in truth.items() for v, j in row.get("near") or []}
    alike = [(u, v) for (u, v), j in near.items() if j >= 0.8 and u < v and {u, v} <= set(stays)]
    joined = sum(stays[u] == stays[v] for u, v in alike)
    merged = [(u, v) for u, v in stays.items() if u != v]
    under = [pair for pair in merged if near.get(pair, 0) < 0.5 and not same_group(truth, *pair)]
    record_property("pairs at 0.8 joined", f"{joined} of {len(alike)}")
    record_property("pages merged", len(merged))
    assert len(alike) > 80
    assert joined >= 0.99 * len(alike)
    assert not under


def same_group(truth: dict[str, dict], one: str, other: str) -> bool:
    """Tell whether the truth joins two pages, perhaps by way of others."""
    return truth[one]["dup_group"] is not None and (
        truth[one]["dup_group"] == truth[other]["dup_group"]
    )
