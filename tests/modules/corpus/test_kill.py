"""kill -9 of the corpus chain or its workers at random moments: nothing lost, nothing twice."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fastwarc.warc import ArchiveIterator

from modules.corpus.dumps import open_dump
from registry import manifests

ROOT = Path(__file__).parents[3]
PAGES = 60
QUICK, ALL = 100, 2000


@pytest.fixture(scope="module")
def small(data, tmp_path_factory) -> Path:
    """A project whose inputs are small enough for hundreds of runs."""
    root = tmp_path_factory.mktemp("small")
    (root / "data").mkdir()
    shutil.copyfile(ROOT / "data.dvc", root / "data.dvc")
    for number, name in enumerate(("RS_2018-11.zst", "RS_2018-12.zst")):
        with (data / "web" / name).open("rb") as file:
            (root / "data" / f"dump-{number}.jsonl").write_bytes(open_dump(file).read())
    whole = (data / "web" / "pages-00000.warc.gz").read_bytes()
    with (data / "web" / "pages-00000.warc.gz").open("rb") as file:
        starts = [record.stream_pos for record in ArchiveIterator(file, parse_http=False)]
    half = PAGES // 2
    for number, (start, end) in enumerate(((0, half), (half, PAGES))):
        path = root / "data" / f"pages-{number}.warc.gz"
        path.write_bytes(whole[starts[start] : starts[end]])
    return root


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """Ask the fork server for one run of a chain."""
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("corpus_chain.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )

    def ask(**request) -> dict:
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        return json.loads(server.stdout.readline())

    yield ask
    server.stdin.close()
    server.wait(30)


def project(small: Path, root: Path) -> Path:
    """A fresh project with the same inputs."""
    shutil.copytree(small, root)
    return root


def files(root: Path) -> dict[str, str]:
    """Path -> sha256 of everything that was made, as it is on disk now."""
    found = {}
    for manifest in sorted((root / "artifacts").glob("*/*/*/manifest.json")):
        folder = manifest.parent
        assert not manifests.damage(folder, manifests.read(folder), verify=True)
        hashes = manifests.hash_files(folder)
        found |= {f"{folder.relative_to(root)}/{name}": str(of) for name, of in hashes.items()}
    return found


@pytest.fixture(scope="module")
def undisturbed(small, ask, tmp_path_factory) -> tuple[dict[str, str], float]:
    """What a run that is left alone makes, and how long it takes."""
    root = project(small, tmp_path_factory.mktemp("alone") / "p")
    run = ask(root=str(root), after=1e9, whom="chain", seed=0)
    assert run["code"] == 0, root.with_suffix(".log").read_text()[-3000:]
    made = files(root)
    kinds = {path.split("/")[1] for path in made}
    assert kinds == {"links", "pages", "documents", "tokenizer", "tokens"}
    return made, run["seconds"]


def kill(kills: int, small, ask, undisturbed, tmp_path) -> None:
    """Kill chains until so many blows have hit; each chain ends as if nothing had been."""
    expected, seconds = undisturbed
    draw = random.Random(kills)
    hits = chains = 0
    while hits < kills:
        root = project(small, tmp_path / f"p{chains}")
        code = 1
        while code != 0:
            # mostly early: a chain takes several blows before it ends
            after = seconds * draw.random() ** 2 if hits < kills else 1e9
            whom = draw.choice(("chain", "worker"))
            run = ask(root=str(root), after=after, whom=whom, seed=draw.random())
            code = run["code"]
            hits += run["killed"] and code != 0
            assert code == 0 or run["killed"], root.with_suffix(".log").read_text()[-3000:]
        assert files(root) == expected
        assert not list((root / "artifacts").rglob("*.work"))
        assert not list((root / "artifacts").rglob("*.tmp"))
        shutil.rmtree(root)
        chains += 1
    assert chains > 1


@pytest.mark.timeout(600)
def test_a_hundred_kills(small, ask, undisturbed, tmp_path):
    kill(QUICK, small, ask, undisturbed, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(7200)  # takes half an hour on two cores
def test_two_thousand_kills(small, ask, undisturbed, tmp_path):
    kill(ALL, small, ask, undisturbed, tmp_path)
