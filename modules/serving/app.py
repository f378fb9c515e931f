"""The HTTP side: routes, errors in OpenAI's shape, metrics."""

import asyncio
import json
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse

from modules.config import Config
from modules.evaluation.score import rolling_logprobs
from modules.serving.bodies import Bounded, error
from modules.serving.completions import Completion, CompletionRequest
from modules.serving.engine import Full
from modules.serving.limits import Limits
from modules.serving.page import PAGE
from modules.serving.slots import Loaded, Slot

log = logging.getLogger(__name__)
T = TypeVar("T")
OPEN = ("/", "/health")  # need no credentials: they tell nothing
RETRY = {"retry-after": "1"}  # seconds


class ScoreRequest(Config):
    """The body of /v1/score."""

    model: str
    """A name of /v1/models."""
    texts: list[str]
    """Each is scored whole, after end-of-text, in windows that half overlap."""
    contexts: list[str] | None = None
    """What stands before each text, unscored."""


class PredictRequest(Config):
    """The body of /v1/predict."""

    model: str
    """A name of /v1/models: of a fine-tuned one."""
    rows: list[dict[str, Any]] = Field(min_length=1)
    """Rows of the task's fields, without label."""


class Gone(Exception):
    """The client has left."""


class Server:
    """What the routes share: the slots by name, limits, counts."""

    def __init__(self, slots: Sequence[Slot], limits: Limits) -> None:
        self.slots, self.limits = {slot.name: slot for slot in slots}, limits
        self.answers: Counter[tuple[str, int]] = Counter()  # (path, status)
        self.seconds = 0.0

    def slot(self, name: str) -> Slot:
        """Return a model by name."""
        if name not in self.slots:
            there = ", ".join(self.slots)
            raise HTTPException(404, f"model {name!r} is not served here; there is: {there}")
        return self.slots[name]

    def bounded(self, texts: Sequence[Any], what: str) -> None:
        """Refuse too many texts or rows."""
        if len(texts) > self.limits.texts:
            raise ValueError(f"{what}: {len(texts)}; at most {self.limits.texts}")

    async def complete(self, asked: CompletionRequest, request: Request) -> Any:
        """Answer /v1/completions."""
        if asked.stream:
            return await self._stream(asked)
        with self.slot(asked.model).use() as loaded:
            completion = Completion(asked, generating(loaded, asked.model), self.limits)
            return await while_there(request, self._in_time(completion.whole()))

    async def _stream(self, asked: CompletionRequest) -> StreamingResponse:
        """Answer with events; what is wrong with a request is said before the first one."""
        using = self.slot(asked.model).use()
        loaded = using.__enter__()
        try:
            completion = Completion(asked, generating(loaded, asked.model), self.limits)
            pieces = completion.pieces()
            first = await self._in_time(anext(pieces))
        except BaseException:
            using.__exit__(None, None, None)
            raise

        async def events() -> AsyncIterator[str]:
            try:
                yield sent(completion.body([first]))
                async with asyncio.timeout(self.limits.seconds):
                    async for piece in pieces:
                        if piece.text or piece.finish or piece.entries:
                            yield sent(completion.body([piece]))
                if asked.stream_options and asked.stream_options.include_usage:
                    yield sent(completion.body([]) | {"usage": completion.usage()})
                yield "data: [DONE]\n\n"
            except TimeoutError:
                yield sent(error("the deadline has passed", "timeout"))
            except Exception:  # the answer has begun: the client can be told by an event only
                log.exception("a streamed answer failed")
                yield sent(error("the model failed", "server_error"))
            finally:
                await pieces.aclose()  # type: ignore[attr-defined]  # it is a generator
                using.__exit__(None, None, None)

        return StreamingResponse(events(), media_type="text/event-stream")

    async def score(self, asked: ScoreRequest, request: Request) -> dict[str, Any]:
        """Answer /v1/score."""
        self.bounded(asked.texts, "texts")
        if asked.contexts is not None and len(asked.contexts) != len(asked.texts):
            raise ValueError(f"contexts: {len(asked.contexts)} for {len(asked.texts)} texts")
        with self.slot(asked.model).use() as loaded:
            model = generating(loaded, asked.model).model
            assert model is not None
            stride, before = model.config.n_positions // 2, asked.contexts or ()

            def run() -> list[tuple[float, int]]:
                tokenizer = loaded.tokenizer
                return rolling_logprobs(model, tokenizer, asked.texts, stride=stride, before=before)

            found = await self._called(loaded.engine.call(run), request)
        rows = [
            {"tokens": n, "log_likelihood": ll, "perplexity": math.exp(min(-ll / max(n, 1), 700))}
            for ll, n in found
        ]
        return {"object": "list", "model": asked.model, "data": rows}

    async def predict(self, asked: PredictRequest, request: Request) -> dict[str, Any]:
        """Answer /v1/predict."""
        self.bounded(asked.rows, "rows")
        with self.slot(asked.model).use() as loaded:
            if (predictor := loaded.predictor) is None:
                raise ValueError(f"model {asked.model}: answers no task; ask /v1/completions")
            future = loaded.engine.call(lambda: predictor.predict(asked.rows))
            rows = await self._called(future, request)
        return {"object": "list", "model": asked.model, "labels": predictor.labels, "data": rows}

    async def _called(self, future: "Future[T]", request: Request) -> T:
        wait: Awaitable[T] = asyncio.wrap_future(future)
        return await while_there(request, self._in_time(wait))

    async def _in_time(self, work: Awaitable[T]) -> T:
        async with asyncio.timeout(self.limits.seconds):
            return await work

    def models(self) -> dict[str, Any]:
        """Answer /v1/models."""
        rows = [
            {
                "id": slot.name,
                "object": "model",
                "created": slot.current.created,
                "owned_by": "textmill",
                "fingerprint": slot.current.fingerprint,
                "task": slot.current.predictor.task.name if slot.current.predictor else None,
                "error": slot.error or None,
            }
            for slot in self.slots.values()
        ]
        return {"object": "list", "data": rows}

    def health(self) -> dict[str, str]:
        """Answer /health: which model is behind is told by /v1/models."""
        behind = any(slot.error for slot in self.slots.values())
        return {"status": "degraded" if behind else "up"}

    def metrics(self) -> str:
        """Return the counts in Prometheus' text format."""
        lines = ["# TYPE textmill_requests_total counter"]
        for (path, status), n in sorted(self.answers.items()):
            lines.append(f'textmill_requests_total{{path="{path}",status="{status}"}} {n}')
        lines += ["# TYPE textmill_request_seconds_total counter"]
        lines += [f"textmill_request_seconds_total {self.seconds:.3f}"]
        for kind, name in (("counter", "tokens"), ("gauge", "waiting"), ("gauge", "running")):
            full = "textmill_tokens_total" if name == "tokens" else f"textmill_{name}"
            lines.append(f"# TYPE {full} {kind}")
            for slot in self.slots.values():
                value = getattr(slot.current.engine, name)
                lines.append(f'{full}{{model="{slot.name}"}} {value}')
        return "\n".join(lines) + "\n"


def generating(loaded: Loaded, name: str) -> Loaded:
    """Return a model that continues text.

    Raises:
        ValueError: it answers a task.
    """
    if loaded.model is None:
        raise ValueError(f"model {name}: is fine-tuned for a task; ask /v1/predict")
    return loaded


def sent(body: Any) -> str:
    """Return a server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


async def while_there(request: Request, work: Awaitable[T]) -> T:
    """Wait for work as long as the client does.

    Raises:
        Gone: the client has left; the work was cancelled.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        gone.cancel()
        task.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def build(slots: Sequence[Slot], limits: Limits) -> FastAPI:
    """Return the application; credentials, Host and Origin are looked at before it."""
    server = Server(slots, limits)
    app = FastAPI(title="textmill", docs_url=None, redoc_url=None)
    app.add_api_route("/v1/completions", server.complete, methods=["POST"], response_model=None)
    app.add_api_route("/v1/score", server.score, methods=["POST"])
    app.add_api_route("/v1/predict", server.predict, methods=["POST"])
    app.add_api_route("/v1/models", server.models)
    app.add_api_route("/metrics", server.metrics, response_class=PlainTextResponse)
    app.add_api_route("/health", server.health)
    app.add_api_route("/", lambda: PAGE, response_class=HTMLResponse)
    _explain(app)

    @app.middleware("http")
    async def count(request: Request, go_on: Any) -> Any:
        begun = time.monotonic()
        reply = await go_on(request)
        route = request.scope.get("route")  # not the path: anybody may ask for any
        server.answers[getattr(route, "path", "other"), reply.status_code] += 1
        server.seconds += time.monotonic() - begun
        return reply

    app.add_middleware(Bounded, limit=limits.body, seconds=limits.seconds)
    return app


def _explain(app: FastAPI) -> None:
    """Answer what goes wrong in OpenAI's shape."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, wrong: RequestValidationError) -> JSONResponse:
        first = wrong.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "body"
        return JSONResponse(error(f"{where}: {first['msg']}"), 400)

    @app.exception_handler(ValueError)
    async def refused(request: Request, wrong: ValueError) -> JSONResponse:
        return JSONResponse(error(str(wrong)), 400)

    @app.exception_handler(HTTPException)
    async def http(request: Request, wrong: HTTPException) -> JSONResponse:
        return JSONResponse(error(str(wrong.detail)), wrong.status_code, wrong.headers)

    @app.exception_handler(Full)
    async def full(request: Request, wrong: Full) -> JSONResponse:
        return JSONResponse(error("the queue is full", "rate_limit_error"), 429, RETRY)

    @app.exception_handler(TimeoutError)
    async def late(request: Request, wrong: TimeoutError) -> JSONResponse:
        return JSONResponse(error("the deadline has passed", "timeout"), 504)

    @app.exception_handler(Gone)
    async def gone(request: Request, wrong: Gone) -> JSONResponse:
        return JSONResponse(error("the client has left"), 499)  # nobody reads it; for the counts

    @app.exception_handler(Exception)
    async def failed(request: Request, wrong: Exception) -> JSONResponse:
        return JSONResponse(error("the server failed; see its log", "server_error"), 500)
