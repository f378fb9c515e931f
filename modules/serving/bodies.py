"""Requests of bounded size: the whole body is read, within a limit and a time, before the rest."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.responses import JSONResponse

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def error(message: str, kind: str = "invalid_request_error", code: str | None = None) -> Any:
    """Return an error in OpenAI's shape."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


class Bounded:
    """An ASGI application whose requests have at most so many bytes."""

    def __init__(self, app: App, limit: int, seconds: float) -> None:
        self.app, self.limit, self.seconds = app, limit, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 413 or 408, or let the application answer."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        try:
            async with asyncio.timeout(self.seconds):
                body = await self._read(receive)
        except TimeoutError:
            return await JSONResponse(error("the request did not come"), 408)(scope, receive, send)
        if body is None:
            message = f"the request has more than {self.limit} bytes"
            reply = JSONResponse(error(message), 413, {"connection": "close"})
            return await reply(scope, receive, send)
        rest = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def again() -> Any:
            return next(rest, None) or await receive()

        return await self.app(scope, again, send)

    async def _read(self, receive: Receive) -> bytes | None:
        """Return the body; None: it is longer than the limit."""
        body, more = bytearray(), True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.limit:
                return None
        return bytes(body)
