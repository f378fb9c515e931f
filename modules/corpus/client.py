"""One HTTP request with all its limits: time, rate, size of the header and of the body."""

import asyncio
import socket
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import IO

import aiohttp
from yarl import URL

from modules.config import Config
from modules.corpus.decode import CHARSET, DecodeError, decode_body
from modules.corpus.network import BlockedAddress, GuardedResponse, NetworkConfig, check_url
from modules.corpus.warc import MAX_HEADER, Body, Capture

SPOOLED = 2**18  # bytes of a body held in memory; the rest goes to a temporary file
MAX_ENCODINGS = 3  # content encodings on top of each other; honest servers use one


class HttpConfig(Config):
    """What one page may cost."""

    total_seconds: float = 20.0
    """Time for a page from its first byte sent to its last one read, over all its redirects."""
    connect_seconds: float = 10.0
    """Time for one connection, with name look-up and TLS."""
    min_rate: int = 1000
    """Bytes per second below which a body is given up (too-slow) ..."""
    rate_seconds: float = 10.0
    """... measured over so many seconds."""
    max_decoded_bytes: int = 5 * 2**20
    """A longer body, as received or decompressed, is given up (too_large_decoded). As
    Common Crawl's limit since 2024, and ExtractConfig's."""
    max_header_bytes: int = MAX_HEADER - 1024
    """A longer header is given up; our own WARC reader takes no longer ones."""


class Failure(Exception):
    """A request that brought no answer; the message is the reason."""

    def __init__(self, reason: str, detail: str = "", *, transient: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.detail, self.transient = reason, detail, transient


@dataclass
class Answer:
    """What a server said: the request, its header, and as much of the body as was read."""

    url: str
    request: bytes
    status: int
    head: bytes  # status line and header fields, as received
    headers: dict[str, str]  # names in lower case; the first of each name counts
    peer: str
    date: str
    body: IO[bytes]
    truncated: str = ""  # why the body is not whole: length, time or disconnect (WARC-Truncated)
    cut: str = ""  # the same as an outcome's reason

    def capture(self, offset: int = 0) -> Capture:
        """Return what a reader of its WARC record would see."""
        content_type = self.headers.get("content-type", "")
        charset = CHARSET.search(content_type)
        return Capture(
            url=self.url,
            offset=offset,
            index=0,
            date=self.date,
            status=self.status,
            content_type=content_type.partition(";")[0].strip().lower(),
            charset=charset.group(1).lower() if charset else "",
            location=self.headers.get("location", "").strip(),
            whole=not self.truncated,
        )

    @property
    def retry_after(self) -> float:
        """How many seconds a busy server asks to wait, 0 if it does not say."""
        text = self.headers.get("retry-after", "").strip() if self.status in (429, 503) else ""
        if text.isdecimal():
            return float(text[:9])
        try:
            date = parsedate_to_datetime(text)
            return max(0.0, (date - datetime.now(UTC)).total_seconds())
        except (TypeError, ValueError, OverflowError):  # none, or without a time zone
            return 0.0

    @property
    def is_overload(self) -> bool:
        """Whether the server as a whole seems to have too much to do."""
        return self.status in (429, 503) or self.truncated == "time"

    @property
    def is_transient(self) -> bool:
        """Whether another time may bring the page."""
        passing = self.status in (408, 425, 429) or 500 <= self.status < 600
        return passing or self.truncated in ("time", "disconnect")

    def decode(self, limit: int) -> bytes:
        """Return the body without its content encodings.

        Raises:
            DecodeError: it is damaged, or longer than `limit`.
        """
        encoding = self.headers.get("content-encoding", "").strip().lower()
        if encoding.count(",") >= MAX_ENCODINGS:
            raise DecodeError("bad-encoding")
        self.body.seek(0)
        data = decode_body(Body("", encoding, "", self.body.read()), limit)
        if len(data) > limit:
            raise DecodeError("too_large_decoded")
        return data


async def ask(
    session: aiohttp.ClientSession,
    url: str,
    config: HttpConfig,
    network: NetworkConfig,
    *,
    seconds: float,
    wanted: Callable[[Answer], bool],
) -> Answer:
    """Send one GET and read the answer, its body only if `wanted`; follow nothing.

    Raises:
        Failure: there is no answer, or no usable one.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    try:
        check_url(url, network)
        async with asyncio.timeout_at(deadline):
            response = await session.get(URL(url, encoded=True), allow_redirects=False)
    except (aiohttp.ClientError, BlockedAddress, OSError, ValueError) as error:
        raise failure(error) from None
    try:
        answer = read_header(response, url, config)
        if wanted(answer):
            await read_body(response.content, answer, config, deadline)
        elif not response.content.at_eof():
            answer.truncated = "length"
    finally:
        response.close()  # a body read to its end has given the connection back before
    return answer


def readable(text: str) -> str:
    """Return what a server sent as text that can be written: as UTF-8 if it was, else Latin-1."""
    data = text.encode("utf-8", "surrogateescape")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def failure(error: Exception) -> Failure:
    """Name the reason why there is no answer."""
    detail = readable(f"{type(error).__name__}: {error}"[:200])
    cause = getattr(error, "os_error", None)
    match error:
        case BlockedAddress():
            return Failure("blocked-address", readable(str(error)[:200]))
        case TimeoutError():
            return Failure("timeout", detail, transient=True)
        case aiohttp.ClientConnectorDNSError():
            unknown = isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME
            return Failure("dns", detail, transient=not unknown)
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return Failure("tls", detail)
        case aiohttp.ClientConnectorError():
            return Failure("connect", detail, transient=True)
        case aiohttp.ClientConnectionError() | OSError():
            return Failure("disconnect", detail, transient=True)
        case aiohttp.InvalidURL():
            return Failure("malformed-url", detail)
    return Failure("bad-http", detail)


def read_header(response: aiohttp.ClientResponse, url: str, config: HttpConfig) -> Answer:
    """Take over a response's header.

    Raises:
        Failure: it is too long.
    """
    version = response.version or aiohttp.HttpVersion11
    status = f"HTTP/{version.major}.{version.minor} {response.status} {response.reason}"
    lines = [status.encode("utf-8", "surrogateescape")]
    for name, value in response.raw_headers:
        # the body is stored without its chunks, so the field must not speak of them: the name
        # that Common Crawl gives it
        chunked = name.lower() == b"transfer-encoding"
        lines.append((b"X-Crawler-" if chunked else b"") + name + b": " + value)
    head = b"\r\n".join(lines) + b"\r\n\r\n"
    if len(head) > config.max_header_bytes:
        raise Failure("bad-http", f"a header of {len(head)} bytes")
    sent = response.request_info
    request = [f"{sent.method} {sent.url.raw_path_qs} HTTP/1.1"]
    request += [f"{name}: {value}" for name, value in sent.headers.items()]
    return Answer(
        url=url,
        request="\r\n".join(request).encode() + b"\r\n\r\n",
        status=response.status,
        head=head,
        headers={name.lower(): readable(response.headers[name]) for name in response.headers},
        peer=response.peer if isinstance(response, GuardedResponse) else "",
        date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        body=tempfile.SpooledTemporaryFile(max_size=SPOOLED),
    )


async def read_body(
    content: aiohttp.StreamReader, answer: Answer, config: HttpConfig, deadline: float
) -> None:
    """Read a body into the answer until it ends or must be cut off."""
    try:
        async with asyncio.timeout_at(deadline):
            ending = await _read_while_fast(content, answer, config)
    except TimeoutError:
        ending = "time", "timeout"
    except (aiohttp.ClientError, OSError):
        ending = "disconnect", "truncated"
    answer.truncated, answer.cut = ending


async def _read_while_fast(
    content: aiohttp.StreamReader, answer: Answer, config: HttpConfig
) -> tuple[str, str]:
    """Read until the end, the size limit, or a stretch of time that brought too little."""
    room = config.max_decoded_bytes
    while True:
        received = 0
        try:
            async with asyncio.timeout(config.rate_seconds):
                while chunk := await content.readany():
                    answer.body.write(chunk[:room])
                    received, room = received + len(chunk), room - len(chunk)
                    if room < 0:
                        return "length", "too_large_decoded"
                return "", ""
        except TimeoutError:
            if received < config.min_rate * config.rate_seconds:
                return "time", "too-slow"
