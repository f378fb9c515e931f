"""Nights on top of each other: only what is new is got, and what is old stays as it is."""

import json
import os
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from modules import presets
from modules.corpus.crawl import FetchConfig
from modules.corpus.document import read_documents
from modules.corpus.network import NetworkConfig
from modules.corpus.robots import RobotsConfig
from modules.files import read_jsonl, sha256
from modules.run import NightlyConfig

pytestmark = [pytest.mark.timeout(900)]

FIRST = ("web/RS_2018-09.xz", "web/RS_2018-11.zst")
SECOND = ("web/RS_2018-12.zst",)


def corpus(name, dumps):
    """The tiny corpus, in more and smaller files."""
    tiny = presets.TINY.corpus
    return tiny.but(
        name=name,
        dumps=dumps,
        workers=1,
        clean=tiny.clean.but(shard_documents=100),
        tokens=tiny.tokens.but(tokens_per_shard=50_000),
    )


@pytest.fixture(scope="module")
def nights(prefect_server, project, request):
    """The artifacts of two nights: by kind of the first, then of the second."""
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)
    patch.setenv("TEXTMILL_ROOT", str(project))
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from flows.nightly import nightly

    made = []
    for dumps in (FIRST, SECOND):
        fingerprint = nightly(NightlyConfig(corpus=corpus("months", dumps)))
        made.append(chain(project, fingerprint))
    return made


def chain(project, tokens):
    """The artifacts that a night made, by kind."""
    from registry import artifacts
    from registry.workspace import Workspace

    workspace = Workspace.open(project)
    found = {"tokens": artifacts.checkout(workspace, tokens)}
    below = found["tokens"]
    for role in ("documents", "text", "pages", "links"):
        below = found[role] = artifacts.checkout(workspace, below.inputs[role])
    return found


def outcomes(night):
    return {row["url"]: row for row in read_jsonl(night["pages"].path / "outcomes.jsonl.zst")}


def test_only_new_links_are_asked_for(nights):
    first, second = map(outcomes, nights)
    assert len(first) > 1000 and len(second) > 300
    assert not first.keys() & second.keys()
    posted = {row["url"] for row in read_jsonl(nights[1]["links"].path / "links.jsonl.zst")}
    assert second.keys() == posted - first.keys()
    assert posted & first.keys()  # links of the second month that the first one had too


def test_old_shards_are_untouched(nights):
    first, second = nights
    for kind, pattern in (("documents", "documents-*"), ("tokens", "train-[0-9]*")):
        old = {path.name: sha256(path) for path in first[kind].path.glob(pattern)}
        new = {path.name: sha256(path) for path in second[kind].path.glob(pattern)}
        assert old and old.items() < new.items()
    assert first["tokens"].inputs["tokenizer"] == second["tokens"].inputs["tokenizer"]


def test_duplicates_of_the_old_are_found(nights):
    old = {document.id for document in read_documents(nights[0]["documents"].path)}
    every = [document.id for document in read_documents(nights[1]["documents"].path)]
    assert len(every) == len(set(every)) and old < set(every)
    drops = [
        row
        for path in sorted(nights[1]["documents"].path.glob("dropped-*"))
        for row in read_jsonl(path)
        if row["reason"].endswith("duplicate") and "older" in row["detail"]
    ]
    assert drops and {row["detail"].split()[0] for row in drops} <= old


def test_a_night_without_anything_new_makes_nothing(nights, in_project):
    from flows.nightly import nightly

    again = nightly(NightlyConfig(corpus=corpus("months", SECOND)))
    assert again == nights[1]["tokens"].fingerprint


def test_the_ledger_says_what_became_of_each_link(nights, in_project):
    from registry import ledger
    from registry.workspace import Workspace

    database = Workspace.open(in_project).database_url
    asked = outcomes(nights[0]) | outcomes(nights[1])
    counts = {(c.state, c.reason): c.n for c in ledger.summary(database)}
    pages = [row for row in asked.values() if not row["reason"]]
    assert counts[("done", "")] == len(pages)
    story = ledger.story(database, pages[0]["url"])
    assert story.warc == pages[0]["warc"] and story.offset == pages[0]["offset"]
    assert story.pages in {night["pages"].fingerprint for night in nights}


def test_a_killed_night_is_continued(prefect_server, in_fresh_project, monkeypatch):
    """The kill comes between the corpus and the closing of the batch, the widest gap there is."""
    from flows import nightly as module

    config = NightlyConfig(corpus=corpus("killed", SECOND), limit=200)
    close = module.ledger.close_batch
    monkeypatch.setattr(module.ledger, "close_batch", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        module.nightly(config)
    monkeypatch.setattr(module.ledger, "close_batch", close)
    tokens = chain(in_fresh_project, module.nightly(config))
    assert tokens["tokens"].inputs.keys() == {"documents", "tokenizer"}  # no base: not grown twice
    assert len(outcomes(tokens)) == 200


TEXT = "The {} of the valley was {} again, and nobody who had {} it would say how or when. "


class Site(BaseHTTPRequestHandler):
    """Pages of one small site; says what was asked."""

    asked: list[str] = []  # noqa: RUF012 - shared on purpose

    def do_GET(self):
        Site.asked.append(self.path)
        number = self.path.strip("/")
        words = " ".join(TEXT.format(*(f"{w}{number}" for w in "abc")) for _ in range(8))
        body = f"<html><body><article><p>{words}</p></article></body></html>".encode()
        self.send_response(200 if number.isdecimal() else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_pages_are_fetched_once(prefect_server, in_fresh_project, monkeypatch):
    from flows.nightly import nightly

    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    real = socket.getaddrinfo

    def resolve(host, *rest, **named):
        return real("127.0.0.1" if host == "site.example.com." else host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)

    def dump(name, numbers):
        rows = [
            {
                "url": f"http://site.example.com:{port}/{n}",
                "score": 5,
                "created_utc": 1,
                "id": f"{n}",
            }
            for n in numbers
        ]
        (in_fresh_project / "data" / name).write_text("".join(json.dumps(r) + "\n" for r in rows))
        return (name,)

    fetch = FetchConfig(
        per_host_delay_seconds=0,
        robots=RobotsConfig(),
        network=NetworkConfig(allow_networks=("127.0.0.1/32",), ports=(port,)),
    )
    settings = corpus("fetched", dump("one.jsonl", range(40))).but(warcs=(), extra=())
    first = chain(in_fresh_project, nightly(NightlyConfig(corpus=settings, fetch=fetch)))
    assert sorted(Site.asked) == sorted(["/robots.txt", *(f"/{n}" for n in range(40))])
    Site.asked.clear()
    later = settings.but(dumps=dump("two.jsonl", range(30, 50)))
    second = chain(in_fresh_project, nightly(NightlyConfig(corpus=later, fetch=fetch)))
    assert sorted(Site.asked) == sorted(["/robots.txt", *(f"/{n}" for n in range(40, 50))])
    texts = {d.url: d.text for d in read_documents(second["documents"].path)}
    assert len(texts) == 50 and all(
        TEXT.format(f"a{n}", f"b{n}", f"c{n}").strip() in text
        for url, text in texts.items()
        for n in [url.rpartition("/")[2]]
    )
    assert first["documents"].counts["kept"] == 40 and second["documents"].counts["kept"] == 10
    server.shutdown()


def test_a_killed_worker_interrupts_the_flow(prefect_server, in_fresh_project, monkeypatch):
    """The next run of the same command makes the corpus, with what the others had finished."""
    from flows import spread
    from flows.corpus import prepare_corpus
    from flows.stage import Interrupted

    real = spread.processes

    @contextmanager
    def killed(workers):
        with real(2) as here:

            def die(function, items):
                return here(os._exit, [9] * 2) if function is sha256 else here(function, items)

            yield die

    monkeypatch.setattr(spread, "processes", killed)
    with pytest.raises(Interrupted, match="run the same command again"):
        prepare_corpus(corpus("worker", SECOND))
    monkeypatch.setattr(spread, "processes", real)
    assert prepare_corpus(corpus("worker", SECOND))
