"""The zoo of web servers (servers.py); what several files of tests clean or compare with."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from modules.corpus.crawl import FetchConfig
from modules.corpus.document import shard_path, write_documents
from modules.corpus.fetch import fetch_pages
from modules.corpus.network import NetworkConfig
from modules.corpus.shards import write_tokens
from modules.corpus.splits import TokensConfig
from modules.files import read_jsonl, write_jsonl
from tests.modules.corpus.token_shards import GPT2, make_documents
from tests.modules.corpus.web_pages import many

# their asserts tell the values, as a test's do
pytest.register_assert_rewrite("tests.modules.corpus.link_dumps", "tests.modules.corpus.alike")

LOOPBACK = NetworkConfig(allow_networks=("127.0.0.1/32",), ports=())


async def resolve_to_loopback(host: str) -> list[str]:
    """Resolve every name to this machine."""
    return ["127.0.0.1"]


@dataclass
class Fetched:
    """What a run of the step left."""

    out: Path
    counts: dict[str, int]
    outcomes: dict[str, dict[str, Any]]  # by url
    pages: list[dict[str, Any]]
    dropped: dict[str, str]  # reason by url


@dataclass
class Zoo:
    """The running servers."""

    ports: dict[str, int]

    def url(self, name: str, path: str = "/", host: str = "", scheme: str = "http") -> str:
        """Return an address at a server; any host name leads to it."""
        return f"{scheme}://{host or name}.zoo.example:{self.ports[name]}{path}"

    def hits(self, host: str = "") -> list[tuple[float, str]]:
        """Return the (time, path) of the requests that a host (or hosts) had, robots.txt aside."""
        with urlopen(f"http://127.0.0.1:{self.ports['control']}/", timeout=10) as answer:
            rows = json.load(answer)
        return [(t, path) for t, h, path in rows if h.startswith(host) and path != "/robots.txt"]

    def fetch(self, urls: list[str], out: Path, config: FetchConfig, **options: Any) -> Fetched:
        """Fetch addresses; check that each is accounted for exactly once."""
        out.mkdir(exist_ok=True)
        options = {"resolve": resolve_to_loopback} | options
        counts = fetch_pages(({"url": url} for url in urls), out, config, **options)
        outcomes = list(read_jsonl(out / "outcomes.jsonl.zst"))
        pages = list(read_jsonl(out / "pages.jsonl.zst"))
        dropped = {r["url"]: r["reason"] for r in read_jsonl(out / "dropped.jsonl.zst")}
        assert sorted(row["url"] for row in outcomes) == sorted(set(urls))
        assert counts["links"] == counts["pages"] + counts["merged_links"] + counts["dropped"]
        named = [url for row in pages for url in {row["url"], *row["redirected_from"]}]
        assert sorted(set(named) & set(urls) | set(dropped)) == sorted(set(urls))
        assert not set(named) & set(dropped)
        return Fetched(out, counts, {row["url"]: row for row in outcomes}, pages, dropped)


def start_alone(urls: list[str], out: Path, config: FetchConfig) -> subprocess.Popen[bytes]:
    """Start the step in a process of its own; it tells its seconds and its growth in memory."""
    job = {"urls": urls, "out": str(out), "config": config.model_dump(mode="json")}
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("fetch_alone.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(job).encode())
    process.stdin.close()
    return process


@contextmanager
def running(*arguments: str) -> Iterator[Zoo]:
    """Start all servers in one process; end them with the block."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("servers.py")), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    yield Zoo(json.loads(process.stdout.readline()))
    process.stdin.close()
    process.wait(timeout=10)


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    """Start the zoo, one of its servers with a certificate that nobody else has signed."""
    certificate = tmp_path_factory.mktemp("tls") / "self-signed.pem"
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=zoo.example -keyout"
    made = subprocess.run(
        [*make.split(), str(certificate), "-out", f"{certificate}.crt"], capture_output=True
    )
    assert made.returncode == 0, made.stderr
    with certificate.open("ab") as file:
        file.write(certificate.with_suffix(".pem.crt").read_bytes())
    with running(str(certificate)) as servers:
        yield servers


@pytest.fixture(scope="module")
def truth(data):
    return {row["url"]: row for row in read_jsonl(data / "web" / "truth.jsonl.zst")}


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


@pytest.fixture
def shards(tmp_path):
    documents = many(120)
    for number in range(6):
        write_documents(shard_path(tmp_path / "many", number), documents[number::6])
    return tmp_path / "many"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    documents = make_documents(root / "documents")
    config = TokensConfig(val_fraction=0.2, test_fraction=0.1, tokens_per_shard=100)
    counts = write_tokens(root / "documents", GPT2, root / "tokens", config)
    return root, documents, config, counts
