"""The corpus report: strangers' text stays text, the flow makes it once, `why` tells each story."""

import copy
import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from flows.charts import literal, markdown_table
from flows.look import pages_of
from flows.page import Quote, Quotes, Shown, as_html, as_markdown
from modules import presets
from modules.files import read_jsonl

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![](http://evil.example/a.png)",
    "![x][ref]\n\n[ref]: http://evil.example/",
    "[click](javascript:alert(1))",
    "<javascript:alert(1)>",
    "http://evil.example/ www.evil.example mail@evil.example",
    "``` \n```\n</code></pre><script>",
    "`````text\n<b>",
    "a | b | c\n|---|---|\n| d",
    "# heading\n- list\n1. list\n> quote\n---\n    code",
    "*em* __strong__ ~~gone~~ `code` $x^2$ \\<b> &lt;b&gt; &#60;b&#62;",
    "'\"><b onclick='x'>",
    "]]></x><!-- comment",
]
HARMLESS = {"inline", "text", "fence", "softbreak", "strong_open", "strong_close"}
BLOCKS = {"paragraph_open", "paragraph_close", "heading_open", "heading_close"}
TABLE = {
    f"{x}_{end}" for x in ("table", "thead", "tbody", "tr", "th", "td") for end in ("open", "close")
}


def tokens(markdown: str) -> list:
    """Everything in it that a generous renderer (raw HTML, bare links, tables) would see."""
    parser = MarkdownIt("commonmark", {"html": True, "linkify": True})
    parser.enable(["table", "strikethrough", "linkify"])
    found = parser.parse(markdown)
    return [child for token in found for child in (token, *(token.children or []))]


def kinds(markdown: str) -> set[str]:
    return {token.type for token in tokens(markdown)}


class Tags(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.text = set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags |= {tag, *(f"{tag}.{name}" for name, _ in attributes)}

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_only_text_in_markdown(text):
    blocks = [
        Shown(text, ["what", text], [["1", text]], text),
        Quotes(text, [Quote([text, text], text)], text),
    ]
    page = as_markdown(text, blocks)
    assert kinds(page) <= HARMLESS | BLOCKS | TABLE
    fences = [token for token in tokens(page) if token.type == "fence"]
    assert [fence.content.strip("\n") for fence in fences] == [text.strip("\n")]
    cells = [token for token in tokens(page) if token.type == "td_open"]
    assert len(cells) == 2


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_reads_as_it_was(text):
    children = [x for token in tokens(f"x {literal(text)}") for x in token.children or []]
    assert "".join(x.content for x in children) == "x " + " ".join(text.split())


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_only_text_in_html(text):
    page = as_html(text, [Shown(text, [text], [[text]], text), Quotes(text, [Quote([text], text)])])
    found = Tags(page)
    assert {tag for tag in found.tags if "." not in tag} == {
        *("html", "meta", "title", "style", "body", "h1", "h2"),
        *("table", "tr", "th", "td", "p", "b", "pre"),
    }
    assert {tag for tag in found.tags if "." in tag} == {
        *("html.lang", "meta.charset", "meta.http-equiv", "meta.content")
    }
    assert found.text.count(text) >= 7


def test_numbers_in_tables_stay_aligned():
    lines = markdown_table(["n", "share", "name"], [[1234, 0.5, "near_duplicate"]]).split("\n")
    assert lines[1] == "| ---: | ---: | --- |"
    assert lines[2] == r"| 1,234 | 0.5 | near\_duplicate |"


def test_a_long_page_is_cut_between_blocks():
    blocks = [Quotes(f"part {i}", [Quote(["x"], "y" * 1000)]) for i in range(10)]
    page = as_markdown("all", blocks, at_most=3500)
    assert len(page) < 3700 and "part 2" in page and "part 3" not in page and "cut here" in page
    assert as_markdown("all", blocks).count("part") == 10


# --- on the tiny corpus ---


@pytest.fixture(scope="module")
def root(tmp_path_factory, prefect_server, data) -> Path:
    """A project with the tiny corpus in it."""
    root = tmp_path_factory.mktemp("looked")
    shutil.copytree(data, root / "data")
    shutil.copyfile(ROOT / "data.dvc", root / "data.dvc")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEXTMILL_ROOT", str(root))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("TEXTMILL_DATABASE_URL", raising=False)
        from flows.corpus import prepare_corpus

        prepare_corpus(presets.TINY.corpus)
    return root


@pytest.fixture
def look(root) -> dict:
    (path,) = root.glob("artifacts/report/tiny-corpus/*/look.json")
    return json.loads(path.read_text())


def test_the_flow_leaves_a_report_that_adds_up(root, look):
    assert all(step["missing"] == 0 for step in look["funnel"])
    (folder,) = root.glob("artifacts/report/tiny-corpus/*")
    html = (folder / "report.html").read_text()
    assert "data:image/png;base64," in html and "low-karma" in html
    kept = {step["name"]: step["kept"] for step in look["funnel"]}
    assert look["contents"]["documents"] == kept["documents"] == kept["tokens"]
    assert sum(x["documents"] for x in look["contents"]["domains"]) == kept["documents"]


def test_the_prefect_ui_has_a_page_of_each_kind(root):
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        found = {artifact.key: artifact.data for artifact in client.read_artifacts(limit=200)}
    for key, word in {
        "corpus-funnel": "low-karma",
        "corpus-contents": "Top domains",
        "corpus-duplicates": "Largest groups",
        "corpus-samples": "Kept",
    }.items():
        assert word in found[key] and len(found[key]) < 10**6


def test_every_page_of_a_poisoned_corpus_is_harmless(look):
    """Put hostile text wherever a look holds text of strangers."""
    poison = "\n".join(HOSTILE)

    def poisoned(value, key=""):
        if isinstance(value, dict):
            return {k: poisoned(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [poisoned(v, key) for v in value]
        strange = ("url", "title", "text", "detail", "file", "domain", "source", "id")
        return poison if key in strange else value

    for blocks in pages_of(poisoned(copy.deepcopy(look))).values():
        found = tokens(as_markdown("x", blocks))
        images = [token for token in found if token.type == "image"]
        assert all(token.attrs["src"].startswith("data:image/png;base64,") for token in images)
        assert {t.type for t in found} <= HARMLESS | BLOCKS | TABLE | {"image"}
        assert not Tags(as_html("x", blocks)).tags & {"script", "a", "b.onclick", "img.onerror"}


def test_a_dropped_text_that_was_not_extracted_is_shown_without_it(look):
    """A ready-made duplicate is in no text artifact."""
    stays = {"id": "a" * 16, "url": "https://x.org/", "title": "t", "text": "x"}
    row = {"id": "b" * 16, "url": "", "detail": "", "stays": stays, "jaccard": "1.000"}
    changed = look | {"dropped": {"documents": {"exact_duplicate": [row]}}}
    for blocks in pages_of(changed).values():
        assert as_markdown("x", blocks) and as_html("x", blocks)


def why(*arguments, root):
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", "why", *arguments],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "TEXTMILL_ROOT": str(root), "HOME": str(root)},
    )


def test_why_is_found_or_says_what_is_near(root):
    truth = list(read_jsonl(root / "data/web/truth.jsonl.zst"))
    gone = next(row["url"] for row in truth if row["kind"] == "http-404" and row["links_ok"])
    done = why(gone, root=root)
    assert done.returncode == 0 and "ends at pages: http-404" in " ".join(done.stdout.split())
    for given, words in (
        ("nonsense", "no address of a page"),
        ("https://en.wikipedia.org/wiki/None", "refused: wikipedia"),
        (f"{gone}.html", "links of that host were taken"),
    ):
        done = why(given, "--corpus", "tiny", root=root)
        assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert why(gone, "--corpus", "none", root=root).returncode == 2


def test_every_story_ends_as_the_truth_says(root):
    from flows.why import filters_of, find_tokens, nights_of
    from modules.corpus.story import tell
    from registry.workspace import Workspace

    workspace = Workspace.open(root)
    nights = nights_of(workspace, find_tokens(workspace, ""))
    directories = [{role: made.path for role, made in night.items()} for night in nights]
    ends = {
        "http-404": "pages: http-404",
        "http-5xx": "pages: http-5xx",
        "image": "pages: not-html",
        "wikipedia": "links: wikipedia",
        "reddit-internal": "links: reddit",
    }
    read = {Path(name).name for name in presets.TINY.corpus.warcs}
    checked = 0
    for row in read_jsonl(root / "data/web/truth.jsonl.zst"):
        wanted = row["links_ok"] or row["kind"] in ("wikipedia", "reddit-internal")
        if row["kind"] not in ends or not wanted or (row["warc"] or "none") not in {*read, "none"}:
            continue
        story = tell(row["url"], directories, filters=filters_of(nights[0]["documents"]))
        assert ends[row["kind"]] in story.end, (row["url"], story)
        checked += 1
    assert checked > 40
