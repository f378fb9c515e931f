"""A zoo of web servers on loopback: healthy ones and all kinds of misbehaving ones.

Runs as a process of its own, so that what it costs is not taken for the fetcher's: writes
{name: port} as one line of JSON and ends when its standard input does. Each server's pages are
behind a robots.txt that is missing (404), unless it is a robots.txt that misbehaves.
"""

import asyncio
import gzip
import json
import os
import random
import resource
import socket
import ssl
import struct
import sys
import time
import zlib
from collections.abc import Awaitable, Callable

import brotli
import zstandard

Handler = Callable[[str, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

WORDS = "the tin mine was closed in the winter and nobody in the valley spoke of it again "
BOMB = 40 * 2**20  # bytes, decoded
OK = b"HTTP/1.1 200 OK\r\n"
HTML = b"Content-Type: text/html; charset=utf-8\r\n"
CLOSE = b"Connection: close\r\n\r\n"

hits: list[tuple[float, str, str]] = []  # (time, host, path)
asked: dict[str, int] = {}


def page(path: str) -> bytes:
    """Return a healthy page."""
    return (
        f"<html><head><title>Page {path}</title></head><body><article><h1>Page {path}</h1>"
        f"<p>Story {path}: {WORDS * 8}</p><p>Then {path} ended. {WORDS * 8}</p>"
        "</article></body></html>"
    ).encode()


def answer(body: bytes, *fields: str, status: str = "200 OK") -> bytes:
    """Return a whole answer."""
    lines = [f"HTTP/1.1 {status}", *fields, f"Content-Length: {len(body)}"]
    if not any(field.lower().startswith("content-type") for field in fields):
        lines.append("Content-Type: text/html; charset=utf-8")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def fixed(data: bytes) -> Handler:
    """Send always the same, then close."""

    async def send(path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return send


def endless(head: bytes, chunk: bytes, pause: float = 0.0) -> Handler:
    """Send a chunk again and again."""

    async def send(path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(chunk)
            await writer.drain()
            await asyncio.sleep(pause)

    return send


def reset(data: bytes) -> Handler:
    """Send something, then reset the connection."""

    async def send(path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(0.05)
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    return send


def moved(to: str) -> Handler:
    return fixed(answer(b"", f"Location: {to}", status="302 Found"))


def packed(encoding: str, body: bytes) -> Handler:
    return fixed(answer(body, f"Content-Encoding: {encoding}"))


async def silent(path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def healthy(path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve pages, in one encoding or another."""
    body, fields = page(path), []
    match path.rpartition(".")[2]:
        case "gz":
            body, fields = gzip.compress(body), ["Content-Encoding: gzip"]
        case "br":
            body, fields = brotli.compress(body), ["Content-Encoding: br"]
        case "zst":
            body, fields = zstandard.compress(body), ["Content-Encoding: zstd"]
        case "chunked":
            writer.write(OK + HTML + b"Transfer-Encoding: chunked\r\n\r\n")
            for at in range(0, len(body), 100):
                piece = body[at : at + 100]
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            writer.write(b"0\r\n\r\n")
            return
        case "close":
            writer.write(OK + HTML + CLOSE + body)
            return
        case "moved":
            target = path.removesuffix(".moved")
            writer.write(answer(b"", f"Location: {target}", status="301 Moved"))
            return
        case "404" | "500" as status:
            writer.write(answer(b"<p>no", status=f"{status} No"))
            return
    writer.write(answer(body, *fields))


async def endless_chain(
    path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    number = int(path.strip("/") or 0)
    writer.write(answer(b"", f"Location: /{number + 1}", status="302 Found"))


async def mover(path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Redirect to the address that the path names."""
    writer.write(answer(b"gone", f"Location: {path[1:]}", status="302 Found"))


async def mutant(path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a good answer with some bytes changed, the path says which."""
    rng = random.Random(path)
    whole = bytearray(rng.choice(GOOD))
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(min(len(whole), rng.choice((60, 400, 10**6))))
        piece = rng.choice((b"", b"\x00", b"\r\n", b"\n", b":", b"\xff\xfe", b"9" * 20, b"chunked"))
        whole[at : at + rng.randrange(3)] = piece
    writer.write(whole[: rng.choice((len(whole), len(whole), rng.randrange(len(whole))))])


async def busy_once(path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    asked[path] = asked.get(path, 0) + 1
    if asked[path] == 1:
        writer.write(answer(b"", "Retry-After: 1", status="429 Too Many Requests"))
    else:
        writer.write(answer(page(path)))


async def short_once(path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    asked[path] = asked.get(path, 0) + 1
    whole = answer(page(path))
    writer.write(whole[:-50] if asked[path] == 1 else whole)


async def control(path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Tell what was asked for so far."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(answer(json.dumps(hits).encode(), "Content-Type: application/json"))


def nested(layers: int) -> bytes:
    data = bytes(BOMB)
    for _ in range(layers):
        data = gzip.compress(data, 6)
    return data


def bare_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


AGENTS = b"".join(b"User-agent: %d\n" % i for i in range(15_000))
RULES = b"".join(b"Disallow: /%d\n" % i for i in range(15_000))
WHOLE = answer(page("/whole"))
GOOD = (
    WHOLE,
    answer(gzip.compress(page("/gz")), "Content-Encoding: gzip"),
    answer(brotli.compress(page("/br")), "Content-Encoding: br"),
    answer(zstandard.compress(page("/zst")), "Content-Encoding: zstd"),
    answer(b"", "Location: /elsewhere", status="301 Moved"),
    OK
    + HTML
    + b"Transfer-Encoding: chunked\r\n\r\n5\r\n<p>ab\r\n3;x=y\r\ncde\r\n0\r\nX: y\r\n\r\n",
)

# name -> handler of a whole request; pages only
PAGES: dict[str, Handler] = {
    "healthy": healthy,
    "slow-headers": endless(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"a", 0.2),
    "slow-body": endless(OK + HTML + CLOSE, b"a", 0.2),
    "endless-body": endless(OK + HTML + CLOSE, b"<p>" + b"a" * 2**16),
    "endless-chunks": endless(
        OK + HTML + b"Transfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"a" * 4096 + b"\r\n"
    ),
    "endless-headers": endless(OK, b"X-More: aaaaaaaaaaaaaaaa\r\n" * 50),
    "huge-header": endless(OK + b"X-Huge: ", b"a" * 2**16),
    "flood-1xx": endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50),
    "endless-answers": endless(b"", WHOLE),
    "gzip-bomb": packed("gzip", gzip.compress(bytes(BOMB), 6)),
    "deflate-bomb": packed("deflate", zlib.compress(bytes(BOMB), 6)),
    "bare-deflate-bomb": packed("deflate", bare_deflate(bytes(BOMB))),
    "br-bomb": packed("br", brotli.compress(bytes(BOMB), quality=1)),
    "zstd-bomb": packed("zstd", zstandard.compress(bytes(BOMB))),
    "nested-bomb": packed("gzip, gzip", nested(2)),
    "hundred-encodings": packed(", ".join(["gzip"] * 100), gzip.compress(b"<p>x")),
    "many-members": packed("gzip", gzip.compress(b"") * 200_000),
    "wrong-encoding": packed("gzip", b"\x00\x01 not gzip" * 100),
    "cut-gzip": packed("gzip", gzip.compress(page("/cut"))[:-40]),
    "unknown-encoding": packed("rot13", b"frpergf"),
    "redirect-loop": moved("/"),
    "redirect-chain": endless_chain,
    "redirect-private": moved("http://169.254.169.254/latest/meta-data/"),
    "redirect-loopback": moved("http://localhost.zoo.example:80/"),
    "redirect-bytes": fixed(
        b"HTTP/1.1 302 Found\r\nLocation: /caf\xe9\r\nContent-Type: \xff\r\n" + CLOSE
    ),
    "bytes-in-type": fixed(OK + b"Content-Type: text/html; charset=\xff\xfe\r\n" + CLOSE + b"<p>"),
    "bytes-for-http": fixed(b"HTTP/1.1 \xff\xfe\r\n\r\n"),
    "redirect-file": moved("file:///etc/hostname"),
    "redirect-nowhere": fixed(b"HTTP/1.1 302 Found\r\n" + CLOSE),
    "length-too-long": fixed(OK + HTML + b"Content-Length: 90000\r\n\r\n" + page("/short")),
    "length-too-short": fixed(OK + HTML + b"Content-Length: 40\r\n\r\n" + page("/long")),
    "two-lengths": fixed(
        OK + HTML + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + page("/two")
    ),
    "negative-length": fixed(OK + HTML + b"Content-Length: -5\r\n\r\n" + page("/negative")),
    "reset-in-header": reset(b"HTTP/1.1 200 OK\r\nContent-"),
    "reset-in-body": reset(OK + HTML + b"Content-Length: 5000\r\n\r\n<p>"),
    "reset-before-answer": reset(b""),
    "bad-chunks": fixed(OK + HTML + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nnonsense\r\n"),
    "huge-chunk": fixed(
        OK + HTML + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\nnonsense"
    ),
    "no-http": fixed(b"<html>as in the days of HTTP/0.9</html>\r\n"),
    "silent": silent,
    "nul-in-header": fixed(OK + HTML + b"X-Nul: a\x00b\r\nContent-Length: 2\r\n\r\nhi"),
    "status-204": fixed(b"HTTP/1.1 204 No Content\r\n" + HTML + b"\r\n" + page("/204")),
    "status-304": fixed(b"HTTP/1.1 304 Not Modified\r\n" + HTML + b"\r\n" + page("/304")),
    "status-999": fixed(answer(b"go away", status="999 Denied")),
    "image": endless(OK + b"Content-Type: image/png\r\n\r\n", b"\x89PNG" * 1000),
    "mutant": mutant,
    "mover": mover,
    "busy-once": busy_once,
    "busy-for-a-year": fixed(answer(b"", "Retry-After: 31536000", status="503 Busy")),
    "short-once": short_once,
}
# name -> handler of /robots.txt; their pages are healthy
ROBOTS: dict[str, Handler] = {
    "robots-endless": endless(
        OK + b"Content-Type: text/plain\r\n\r\n", b"User-agent: *\nDisallow: /n\n" * 999
    ),
    "robots-slow": endless(OK + b"Content-Type: text/plain\r\n\r\n", b"U", 0.2),
    "robots-silent": silent,
    "robots-500": fixed(answer(b"", status="500 Oops")),
    "robots-403": fixed(answer(b"", status="403 No")),
    "robots-loop": moved("/robots.txt"),
    "robots-private": moved("http://127.0.0.1:9/robots.txt"),
    "robots-bomb": packed("gzip", gzip.compress(b"User-agent: *\n" * 10**7)),
    "robots-agents": fixed(answer(AGENTS + RULES, "Content-Type: text/plain")),
    "robots-binary": fixed(answer(bytes(range(256)) * 500, "Content-Type: text/plain")),
    "robots-rules": fixed(
        answer(
            b"User-agent: *\nDisallow: /\n\nUser-agent: Textmill\nCrawl-delay: 0.5\n"
            b"Disallow: /private/\nAllow: /private/but-*-this$\n",
            "Content-Type: text/plain",
        )
    ),
}
# name -> handler of a bare connection
RAW: dict[str, Handler] = {
    "reset-at-once": reset(b""),
    "tls-garbage": fixed(b"\x16\x03\x01 this is no TLS" * 50),
    "tls-silent": silent,
    "plain-http": fixed(WHOLE),  # asked by https
    "control": control,
}


async def respond(
    handler: Handler, robots: Handler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Read requests of a connection and answer them; a misbehaving server answers one only."""
    while head := await reader.readuntil(b"\r\n\r\n"):
        lines = head.decode("latin-1").split("\r\n")
        path = lines[0].split(" ")[1]
        host = next(line[5:].strip() for line in lines if line.lower().startswith("host:"))
        hits.append((time.monotonic(), host.partition(":")[0], path))
        await (robots if path == "/robots.txt" else handler)(path, reader, writer)
        await writer.drain()
        if path == "/robots.txt" and robots is MISSING:
            continue
        if handler is not healthy or path.endswith("close"):
            return


MISSING = fixed(answer(b"", status="404 Not Found"))


async def listen(
    handler: Handler, robots: Handler | None, tls: ssl.SSLContext | None = None
) -> int:
    """Start a server; return its port."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if robots is None:
                await handler("/", reader, writer)
            else:
                await respond(handler, robots, reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client has had enough
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    return int(server.sockets[0].getsockname()[1])


async def main() -> None:
    """Run all servers until standard input ends."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    ports = {name: await listen(handler, MISSING) for name, handler in PAGES.items()}
    ports |= {name: await listen(healthy, handler) for name, handler in ROBOTS.items()}
    ports |= {name: await listen(handler, None) for name, handler in RAW.items()}
    if len(sys.argv) > 1:  # a certificate that nobody has signed but itself
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(sys.argv[1])
        ports["tls-self-signed"] = await listen(healthy, MISSING, context)
    sys.stdout.write(json.dumps(ports) + "\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)  # whatever still sends


if __name__ == "__main__":
    asyncio.run(main())
