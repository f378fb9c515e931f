"""What the guard lets through, and the secret it asks for."""

import asyncio
import base64
from multiprocessing import get_context
from pathlib import Path

import pytest

from registry import access
from registry.access import Guard
from registry.workspace import Workspace

HOST, PAIR = "127.0.0.1:4200", "textmill:secret"


def basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


async def behind(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"in"})


def status(headers: list[tuple[str, str]], *, kind: str = "http", is_open: bool = False) -> int:
    """Send one request through a guard; return its status (1008: a websocket was closed)."""
    sent = []

    async def receive():
        return {"type": f"{kind}.connect"}

    async def send(message):
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers]
    scope = {"type": kind, "method": "GET", "path": "/", "headers": raw}
    app = Guard(behind, PAIR, [HOST, "localhost:4200"], is_open=lambda scope: is_open)
    asyncio.run(app(scope, receive, send))
    return sent[0].get("status") or sent[0]["code"]


GOOD = [("host", HOST), ("authorization", basic(PAIR))]


@pytest.mark.parametrize(
    ("expected", "headers"),
    [
        (200, GOOD),
        (200, [*GOOD, ("origin", f"http://{HOST}")]),
        (200, [("host", "LOCALHOST:4200"), GOOD[1]]),
        (401, [("host", HOST)]),
        (401, [("host", HOST), ("authorization", basic("textmill:Secret"))]),
        (401, [("host", HOST), ("authorization", basic("textmill:"))]),
        (401, [("host", HOST), ("authorization", "Bearer secret")]),
        (401, [("host", HOST), ("authorization", "Basic")]),
        (401, [*GOOD, ("authorization", basic("other:one"))]),
        (403, [("authorization", basic(PAIR))]),
        (403, [("host", "evil.example"), GOOD[1]]),
        (403, [("host", "127.0.0.1"), GOOD[1]]),
        (403, [("host", "127.0.0.1:4200.evil.example"), GOOD[1]]),
        (403, [*GOOD, ("host", "evil.example")]),
        (403, [*GOOD, ("origin", "http://evil.example")]),
        (403, [*GOOD, ("origin", "null")]),
        (403, [*GOOD, ("origin", f"http://{HOST}.evil.example")]),
        (403, [*GOOD, ("origin", "http://127.0.0.1:9999")]),
    ],
)
def test_who_is_let_in(expected, headers):
    assert status(headers) == expected


def test_open_requests_still_need_host_and_origin():
    assert status([("host", HOST)], is_open=True) == 200
    assert status([("host", "evil.example")], is_open=True) == 403
    assert status([("host", HOST), ("origin", "http://evil.example")], is_open=True) == 403


def test_websockets_are_closed_before_they_open():
    assert status([("host", HOST)], kind="websocket") == 1008


def ask(root: str) -> str:
    return access.credentials(Workspace.open(Path(root)))


def test_secret_is_made_once_and_private(tmp_path, monkeypatch):
    monkeypatch.delenv("TEXTMILL_DATABASE_URL", raising=False)
    Workspace.open(tmp_path)
    with get_context("spawn").Pool(4) as pool:
        found = set(pool.map(ask, [str(tmp_path)] * 8))
    path = tmp_path / ".textmill" / "secret"
    assert len(found) == 1
    assert path.read_text().strip() in found
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(found.pop()) > 40
    assert list(path.parent.glob("secret.*")) == []


def test_spoilt_secret_is_named(ws):
    access.secret_file(ws).write_text("no colon")
    with pytest.raises(ValueError, match=r"secret does not hold NAME:PASSWORD; delete it"):
        access.credentials(ws)
