"""Who may talk to a server: credentials, Host and Origin, asked before anything else is done.

Prefect's server looks at no Host and no Origin, and MLflow's server knows no credentials: a page
that somebody opens in a browser could reach both on loopback. Every request passes here first.
"""

import base64
import hmac
import os
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any

from registry.files import locked, write_whole
from registry.workspace import Workspace

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

USER = "textmill"
HOSTS = "TEXTMILL_ALLOWED_HOSTS"  # NAME:PORT, commas between; for a server started by `up`
SECRET_BYTES = 32


def secret_file(ws: Workspace) -> Path:
    """Return the file that holds the project's credentials, USER:PASSWORD."""
    return ws.state / "secret"


def credentials(ws: Workspace) -> str:
    """Return the project's credentials, USER:PASSWORD, made at the first call.

    Raises:
        ValueError: the file was changed to something else.
    """
    path = secret_file(ws)
    with locked(ws.state / "locks" / "secret.lock"):
        if not path.exists():
            secret = f"{USER}:{secrets.token_urlsafe(SECRET_BYTES)}\n"
            write_whole(path, secret.encode(), mode=0o600)
    found = path.read_text().strip()
    user, colon, password = found.partition(":")
    if not (user and colon and password):
        raise ValueError(f"{path} does not hold NAME:PASSWORD; delete it and a new one is made")
    return found


def client_environment(ws: Workspace) -> dict[str, str]:
    """Return what Prefect's and MLflow's clients read their credentials from."""
    found = credentials(ws)
    user, _, password = found.partition(":")
    return {
        "PREFECT_API_AUTH_STRING": found,
        "MLFLOW_TRACKING_USERNAME": user,
        "MLFLOW_TRACKING_PASSWORD": password,
    }


def origins(hosts: Iterable[str]) -> set[str]:
    """Return the origins of pages that servers under these names show."""
    return {f"{scheme}://{host}" for host in hosts for scheme in ("http", "https")}


class Guard:
    """An ASGI application in front of another one."""

    def __init__(
        self,
        app: App,
        credentials: str,
        hosts: Iterable[str],
        *,
        is_open: Callable[[Scope], bool] = lambda scope: False,
        prompts: bool = True,
        bearer: bool = False,
    ) -> None:
        """Let through what has the credentials, names a host of these, and is of their origin.

        Args:
            app: The application behind.
            credentials: USER:PASSWORD.
            hosts: What Host may be, NAME:PORT.
            is_open: Says which requests need no credentials (Host and Origin are still looked at).
            prompts: Whether a browser asks the user for name and password.
            bearer: Whether the password alone does too, as the bearer token of an API.
        """
        self.app = app
        self.expected = [b"Basic " + base64.b64encode(credentials.encode())]
        if bearer:
            self.expected.append(b"Bearer " + credentials.partition(":")[2].encode())
        self.hosts = {host.lower() for host in hosts}
        self.origins = origins(self.hosts)
        self.is_open = is_open
        self.prompts = prompts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 or 401, or let the application answer."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        headers = scope["headers"]
        if _one(headers, b"host").lower() not in self.hosts:
            return await refuse(scope, receive, send, 403, "unknown Host")
        if (origin := _one(headers, b"origin")) and origin.lower() not in self.origins:
            return await refuse(scope, receive, send, 403, "foreign Origin")
        if not (self.is_open(scope) or self._knows(headers)):
            return await refuse(
                scope, receive, send, 401, "credentials are missing or wrong", self.prompts
            )
        return await self.app(scope, receive, send)

    def _knows(self, headers: list[tuple[bytes, bytes]]) -> bool:
        given = [value for name, value in headers if name == b"authorization"]
        known = [hmac.compare_digest(given[0], each) for each in self.expected if given]
        return len(given) == 1 and any(known)


def _one(headers: list[tuple[bytes, bytes]], name: bytes) -> str:
    """Return a header's value; of one that is given twice, nothing that anybody expects."""
    return ",".join(value.decode("latin-1") for key, value in headers if key == name)


async def refuse(
    scope: Scope, receive: Receive, send: Send, status: int, why: str, prompts: bool = False
) -> None:
    """Answer a request with an error, or close a websocket before it opens (which is a 403)."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": why})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    if prompts:
        headers.append((b"www-authenticate", b'Basic realm="textmill", charset="UTF-8"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"textmill: {why}\n".encode()})


def allowed_hosts() -> list[str]:
    """Return the names that `up` lets this server answer to."""
    return [host for host in os.environ.get(HOSTS, "").split(",") if host]
