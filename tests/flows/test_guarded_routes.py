"""Every route of both servers, as they list them: closed without credentials (RELIABILITY R19).

The routes are read from the applications, so that one which an upgrade adds is asked as well.
"""

import asyncio
import base64

import httpx
import pytest
from prefect.settings import PREFECT_SERVER_API_AUTH_STRING, temporary_settings
from starlette.routing import Mount, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from registry.access import HOSTS, credentials
from registry.workspace import Workspace

HOST = "127.0.0.1:4200"


def every_path(routes, prefix=""):
    """Yield (method, path) of every HTTP route, and ("websocket", path)."""
    for route in routes:
        path = prefix + getattr(route, "path", "")
        if included := getattr(route, "original_router", None):  # FastAPI includes routers lazily
            yield from every_path(included.routes, prefix + route.include_context.prefix)
        elif isinstance(route, Mount):
            yield from every_path(getattr(route.app, "routes", []), path)
            yield "GET", path + "/anything"
        elif isinstance(route, WebSocketRoute):
            yield "websocket", path
        else:
            for method in getattr(route, "methods", None) or {"GET"}:
                yield method, path


async def statuses(app, requests, headers=None):
    """Return the status of every request to an application that is not started."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    headers = {"host": HOST} | (headers or {})
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}") as client:
        found = {}
        for method, path in requests:
            reply = await client.request(method, path, headers=headers)
            found[method, path] = reply.status_code
        return found


@pytest.fixture
def prefect_app(in_project, monkeypatch):
    from flows.prefect_app import create_app

    monkeypatch.setenv(HOSTS, HOST)
    secret = credentials(Workspace.open())
    with temporary_settings({PREFECT_SERVER_API_AUTH_STRING: secret}):
        yield create_app()


def test_prefect_is_closed_but_for_its_pages(prefect_app):
    routes = set(every_path(prefect_app.app.routes))
    asked = {(method, path) for method, path in routes if method != "websocket"}
    assert len(asked) > 150
    found = asyncio.run(statuses(prefect_app, sorted(asked)))
    opened = {request for request, status in found.items() if status != 401}
    api = {path for _, path in opened if path.startswith("/api")}
    assert api == {"/api/health", "/api/ready"}
    assert {method for method, _ in opened} <= {"GET", "HEAD"}


def test_prefect_websockets_ask_for_credentials(prefect_app):
    paths = [path for kind, path in every_path(prefect_app.app.routes) if kind == "websocket"]
    assert len(paths) >= 3
    client = TestClient(prefect_app, base_url=f"http://{HOST}")
    for path in paths:
        for token in (None, base64.b64encode(b"textmill:wrong").decode()):
            with (
                pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)),
                client.websocket_connect(path, subprotocols=["prefect"]) as socket,
            ):
                socket.send_json({"type": "auth", "token": token})
                socket.receive_json()
    with (
        pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)),
        client.websocket_connect(paths[0], headers={"origin": "http://evil.example"}) as socket,
    ):
        socket.receive_json()


def test_mlflow_is_closed(in_project, monkeypatch):
    monkeypatch.setenv(HOSTS, HOST)
    from mlflow.server import app as flask_app

    from registry.mlflow_app import create_app

    guarded = create_app()
    asked = {
        (method, rule.rule) for rule in flask_app.url_map.iter_rules() for method in rule.methods
    } | {request for request in every_path(guarded.app.routes) if request[0] != "websocket"}
    assert len(asked) > 200
    found = asyncio.run(statuses(guarded, sorted(asked)))
    assert set(found.values()) == {401}
    pair = base64.b64encode(credentials(Workspace.open()).encode()).decode()
    known = {"authorization": f"Basic {pair}"}
    assert asyncio.run(statuses(guarded, [("GET", "/version")], known)) == {
        ("GET", "/version"): 200
    }
    for wrong in ({"host": "10.evil.example"}, {"origin": "http://evil.example"}):
        answer = asyncio.run(statuses(guarded, [("GET", "/version")], known | wrong))
        assert answer == {("GET", "/version"): 403}
