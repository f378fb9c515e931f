"""Fork whole corpus chains on request and kill them at a given moment (see test_kill.py).

Everything is imported and looked up once, so that a try costs no start-up; the chain is that of
flows/corpus.py without Prefect: the same steps, two worker processes, published by the registry.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import alembic.context  # noqa: F401  what opening a catalogue imports
import psutil

from modules import presets
from modules.corpus.clean import clean
from modules.corpus.extract import extract_text
from modules.corpus.links import collect_links
from modules.corpus.pages import select_pages
from modules.corpus.shards import training_texts, write_tokens
from modules.parallel import processes
from modules.tokenizer import train
from registry import artifacts, versions
from registry.environment import configure
from registry.provenance import library_versions
from registry.workspace import Workspace

CORPUS = presets.TINY.corpus
WORKERS = 2


def chain(root: Path) -> None:
    """Make every artifact of the corpus that is not there yet."""
    workspace = Workspace.open(root)
    configure(workspace)
    data = workspace.data
    dumps, warcs = sorted(data.glob("*.jsonl")), sorted(data.glob("*.warc.gz"))

    def make(kind, name, step, config, inputs):
        parts = {k: v if isinstance(v, str) else v.fingerprint for k, v in inputs.items()}
        values = config.model_dump(mode="json")
        fingerprint = artifacts.fingerprint(kind, values, parts, 1)
        if found := artifacts.find(workspace, kind, fingerprint):
            return found
        with (
            artifacts.workdir(workspace, kind, name, fingerprint, wait=True) as work,
            processes(WORKERS, "fork") as spread,  # one thread here, and all is imported
        ):
            counts = step(work, spread)
            return artifacts.publish(
                workspace,
                work,
                kind=kind,
                name=name,
                fingerprint=fingerprint,
                config=values,
                inputs=inputs,
                counts=counts,
            )

    links = make(
        "links",
        "kill",
        lambda out, spread: collect_links(dumps, out, CORPUS.links, spread=spread),
        CORPUS.links,
        {"dumps": versions.data_fingerprint(workspace, dumps)},
    )
    pages = make(
        "pages",
        "kill",
        lambda out, spread: select_pages(links.path, warcs, data, out, CORPUS.pages, spread=spread),
        CORPUS.pages,
        {"links": links},
    )
    extract = CORPUS.extract.but(shard_pages=20)
    text = make(
        "documents",
        "kill-text",
        lambda out, spread: extract_text(pages.path, data, out, extract, spread=spread),
        extract,
        {"pages": pages},
    )
    settings = CORPUS.clean.but(shard_documents=20)
    documents = make(
        "documents",
        "kill",
        lambda out, spread: clean(text.path, [], out, settings, spread=spread),
        settings,
        {"text": text},
    )
    tokenizer = make(
        "tokenizer",
        "kill",
        lambda out, spread: train(
            training_texts(documents.path, CORPUS.tokens), out, CORPUS.tokenizer
        ),
        CORPUS.tokenizer,
        {"documents": documents},
    )
    shards = CORPUS.tokens.but(tokens_per_shard=5000)
    make(
        "tokens",
        "kill",
        lambda out, spread: write_tokens(
            documents.path, tokenizer.path, out, shards, spread=spread
        ),
        shards,
        {"documents": documents, "tokenizer": tokenizer},
    )


def victim(pid: int, whom: str, draw: random.Random) -> int:
    """Return the process to kill: the chain itself, or one of those it has started."""
    if whom == "chain":
        return pid
    try:
        below = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return pid
    return draw.choice(below).pid if below else pid


def serve(request: dict) -> dict:
    """Fork a chain, kill it after so many seconds, wait until all of it has gone."""
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        log = os.open(f"{request['root']}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        try:
            chain(Path(request["root"]))
            os._exit(0)
        except BaseException as error:  # e.g. BrokenProcessPool, where a worker was the victim
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
    killed = ""
    draw = random.Random(request["seed"])
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if not killed and time.monotonic() - began >= request["after"]:
            killed = request["whom"]
            try:
                os.kill(victim(pid, killed, draw), signal.SIGKILL)
            except ProcessLookupError:
                killed = ""
        time.sleep(0.001)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "killed": bool(killed),
        "seconds": time.monotonic() - began,
    }


if __name__ == "__main__":
    library_versions()  # remembered
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), flush=True)  # noqa: T201  its protocol
