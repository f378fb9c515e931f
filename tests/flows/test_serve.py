"""`textmill serve`: guarded routes, an alias that moves, a version that cannot be loaded."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
import torch
from starlette.routing import Route
from starlette.testclient import TestClient

from flows import serving
from modules import tokenizer as bpe
from modules.model import checkpoint
from modules.model.gpt import GPT, GPTConfig
from modules.serving.app import OPEN, build
from modules.serving.limits import Limits
from modules.serving.slots import Slot
from registry import artifacts, models, projection
from registry.access import credentials
from registry.tables import Kind
from registry.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
NAME, LIMITS = "textmill-t@champion", Limits()
MOVES, CLIENTS = 4, 4  # of the slow proof


def register(ws: Workspace, seed: int) -> int:
    """Publish an untrained model and make it a version."""
    fp = artifacts.fingerprint(Kind.CHECKPOINT, {"seed": seed}, {}, 1)
    with artifacts.workdir(ws, Kind.CHECKPOINT, "t", fp) as work:
        made = bpe.Tokenizer([("h", "e"), ("l", "l")])
        (work / "tokenizer").mkdir()
        made.save(work / "tokenizer")
        torch.manual_seed(seed)
        size = GPTConfig(vocab_size=made.n_vocab, n_positions=64, n_embd=64, n_layer=1, n_head=2)
        checkpoint.save(GPT(size.but(init_std=0.3)), work)
        what = {"kind": Kind.CHECKPOINT, "name": "t", "fingerprint": fp}
        empty: dict = {"inputs": {}, "counts": {}}
        found = artifacts.publish(ws, work, **what, config={"seed": seed}, **empty)
    return models.register(ws, "textmill-t", found, "0" * 32)


@pytest.fixture
def ws(tmp_path, monkeypatch) -> Workspace:
    for name in ("TEXTMILL_DATABASE_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    made = Workspace.open(tmp_path)
    monkeypatch.setitem(projection._silent_until, made.tracking_uri, float("inf"))
    for seed in (1, 2):
        register(made, seed)
    models.promote(made, "textmill-t", 1, expected=None, reason="first")
    return made


def test_routes_are_closed_the_alias_is_followed_and_a_bad_version_changes_nothing(ws):
    slot = Slot(NAME, serving.load(ws, NAME, LIMITS))
    app = build([slot], LIMITS)
    token = credentials(ws).partition(":")[2]
    guarded = serving.guarded(ws, app, ["testserver"])
    with TestClient(guarded) as client:
        routes = [(r.path, m) for r in app.routes if isinstance(r, Route) for m in r.methods]
        assert len(routes) > 8
        for path, method in routes:
            status = client.request(method, path).status_code
            assert status == (401 if path not in OPEN else status), path
            for wrong in ({"host": "evil.example"}, {"origin": "http://evil.example"}):
                assert client.request(method, path, headers=wrong).status_code == 403, path
        for bad in ("Bearer x", f"Basic {token}", "Bearer ", token):
            assert client.get("/v1/models", headers={"authorization": bad}).status_code == 401
        assert client.get("/health").json() == {"status": "up"}
        client.headers["authorization"] = f"Bearer {token}"

        def served() -> str:
            return client.get("/v1/models").json()["data"][0]["fingerprint"]

        follower, first = serving.Follower(ws, [slot], LIMITS, 1.0), served()
        models.promote(ws, "textmill-t", 2, expected=1, reason="better")
        follower.look(slot)
        second = served()
        assert second != first
        shutil.rmtree(artifacts.look_up(ws, "textmill-t/1").path)
        for copies in (folder for folder in ws.state.iterdir() if folder.is_dir()):
            shutil.rmtree(copies)
        models.promote(ws, "textmill-t", 1, expected=2, reason="a bad one")
        follower.look(slot)
        follower.look(slot)  # not tried again at once
        assert served() == second
        assert client.get("/health").json() == {"status": "degraded"}
        assert client.get("/v1/models").json()["data"][0]["error"]
        body = {"model": NAME, "prompt": "he", "max_tokens": 3}
        assert client.post("/v1/completions", json=body).status_code == 200
        models.promote(ws, "textmill-t", 2, expected=1, reason="back")
        follower.look(slot)
        assert client.get("/health").json() == {"status": "up"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_real_server_under_load_follows_the_alias_and_stops_whole(ws):
    """About a minute: a process, clients all the while, MOVES moves of the alias, SIGTERM."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "flows.cli", "serve", NAME, "--port", str(port)]
    environment = os.environ | {"TEXTMILL_ROOT": str(ws.root), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, "--threads", "1", "--poll", "0.5"], env=environment, cwd=ROOT
    )
    token = credentials(ws).partition(":")[2]
    url, headers = f"http://127.0.0.1:{port}", {"authorization": f"Bearer {token}"}
    try:
        client = httpx.Client(base_url=url, headers=headers, timeout=120)
        deadline = time.monotonic() + 300
        while True:
            assert process.poll() is None and time.monotonic() < deadline
            try:
                if client.get("/health").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        texts, failures, stop = set(), [], threading.Event()

        def work() -> None:
            mine = httpx.Client(base_url=url, headers=headers, timeout=120)
            body = {"model": NAME, "prompt": "he", "max_tokens": 40, "temperature": 0}
            while not stop.is_set():
                reply = mine.post("/v1/completions", json=body)
                if reply.status_code != 200:
                    failures.append(reply.text)
                else:
                    texts.add(reply.json()["choices"][0]["text"])

        threads = [threading.Thread(target=work) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        seen = set()
        for move in range(MOVES):
            old, new = (1, 2) if move % 2 == 0 else (2, 1)
            models.promote(ws, "textmill-t", new, expected=old, reason="move")
            wanted = artifacts.look_up(ws, NAME).fingerprint
            while client.get("/v1/models").json()["data"][0]["fingerprint"] != wanted:
                assert time.monotonic() < deadline + 200
                time.sleep(0.1)
            seen.add(wanted)
        time.sleep(1.0)
        stop.set()
        for thread in threads:
            thread.join()
        assert not failures and len(seen) == 2 and len(texts) == 2  # each model's one greedy text
        body = {"model": NAME, "prompt": ["he"] * 8, "max_tokens": 60, "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as reply:
            lines = reply.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            rest = [json.loads(t[6:]) for t in lines if t and t != "data: [DONE]"]
        ended = [c["finish_reason"] for b in rest for c in b["choices"] if c["finish_reason"]]
        assert len(ended) == 8
        assert process.wait(60) == 0
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url}/health")
    finally:
        if process.poll() is None:
            process.kill()
