"""Bytes from a server to text: transfer and content encodings with a cap, then the charset."""

import codecs
import io
import re
import unicodedata
import zlib
from dataclasses import dataclass
from typing import Any

from fastwarc.stream_io import BrotliReader, ZstdReader
from resiliparse.parse.encoding import detect_encoding, detect_mime, map_encoding_to_html5

from modules.corpus.warc import Body

BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# charsets whose bytes may be valid UTF-8 although they are not
NOT_ASCII_BASED = re.compile(r"utf[-_]?(16|32|7)|iso[-_]?2022|hz", re.IGNORECASE)
CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
# control characters but tab and newline, lone surrogates, noncharacters, invisible marks
UNWANTED = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff"
    "\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]"
)
LINE_BREAKS = ("\r\n", "\r", "\x85", "\u2028", "\u2029")


MAX_MEMBERS = 100  # of one gzip body; each costs a copy of what follows it


class DecodeError(Exception):
    """A body that cannot be read; the message is the reason."""


@dataclass(frozen=True)
class Text:
    """Decoded text and how it was got."""

    text: str
    charset: str
    n_replaced: int  # bytes sequences that stood for no character


def unchunk(data: bytes) -> bytes:
    """Undo chunked transfer encoding; return bytes that are not chunked as they are."""
    out: list[bytes] = []
    at = 0
    while True:
        end = data.find(b"\n", at, at + 64)
        size = re.match(rb"\s*([0-9a-fA-F]{1,8})\s*(;|$)", data[at:end]) if end >= 0 else None
        if size is None:
            if not out:  # the crawler has undone it and kept the header
                return data
            raise DecodeError("bad-encoding")
        length = int(size.group(1), 16)
        if length == 0:
            return b"".join(out)
        chunk = data[end + 1 : end + 1 + length]
        if len(chunk) < length:
            raise DecodeError("bad-encoding")
        out.append(chunk)
        at = end + 1 + length
        at += 2 if data[at : at + 2] == b"\r\n" else 1 if data[at : at + 1] == b"\n" else 0


def inflate(data: bytes, window: int, limit: int) -> bytes:
    """Undo gzip or zlib compression of all members, at most `limit` + 1 bytes."""
    out = b""
    for _ in range(MAX_MEMBERS):
        if not data or len(out) > limit:
            break
        stream = zlib.decompressobj(window)
        try:
            out += stream.decompress(data, limit + 1 - len(out))
        except zlib.error:
            if out:  # garbage after a whole member, as some servers send
                return out
            raise DecodeError("bad-encoding") from None
        if not stream.eof:
            if len(out) <= limit:
                raise DecodeError("bad-encoding")  # cut off
            return out
        data = stream.unused_data
    return out


def _read(reader: Any, limit: int) -> bytes:
    """Read at most `limit` + 1 bytes from a decompressing reader."""
    parts, size = [], 0
    try:
        while size <= limit and (part := reader.read(min(2**16, limit + 1 - size))):
            parts.append(part)
            size += len(part)
    except (OSError, ValueError, EOFError):
        raise DecodeError("bad-encoding") from None
    return b"".join(parts)


def decompress(data: bytes, encoding: str, limit: int) -> bytes:
    """Undo one content encoding, at most `limit` + 1 bytes.

    Raises:
        DecodeError: the data is damaged, or the encoding unknown.
    """
    match encoding:
        case "" | "identity":
            return data
        case "gzip" | "x-gzip":
            return inflate(data, 31, limit)
        case "deflate":  # zlib by the standard, bare deflate by some servers
            return inflate(data, 15 if data[:1] in (b"\x78", b"\x58", b"\x08") else -15, limit)
        case "br":
            return _read(BrotliReader(io.BytesIO(data)), limit)
        case "zstd":
            return _read(ZstdReader(io.BytesIO(data)), limit)
    raise DecodeError("unknown-encoding")


def decode_body(body: Body, limit: int) -> bytes:
    """Undo transfer and content encodings of an answer.

    Raises:
        DecodeError: `too_large_decoded`, `bad-encoding` or `unknown-encoding`.
    """
    data = unchunk(body.data) if "chunked" in body.transfer_encoding else body.data
    encodings = [part.strip() for part in body.content_encoding.split(",")]
    for encoding in reversed(encodings):
        try:
            data = decompress(data, encoding, limit)
        except DecodeError:
            if not data.lstrip()[:1] == b"<":  # the label is wrong: it is bare HTML
                raise
        if len(data) > limit:
            raise DecodeError("too_large_decoded")
    return data


def is_binary(data: bytes) -> bool:
    """Tell whether bytes are no text of any charset (an image served as a page)."""
    if any(data.startswith(bom) for bom, _ in BOMS):
        return False
    start = data[: 2**16].strip()
    kind = detect_mime(start)
    if kind == "application/octet-stream":  # many unprintable bytes: a page with NULs, or not
        return bool(start) and not start.startswith(b"<")
    return not (kind.startswith("text/") or "xml" in kind or "html" in kind or "json" in kind)


def declared_charset(data: bytes, content_type: str) -> str:
    """Return the charset of the HTTP header, else of the page's <meta>, else nothing."""
    match = CHARSET.search(content_type)
    if match is None:
        head = data[:2048].decode("latin-1")
        match = CHARSET.search(head) or re.search(r"<\?xml[^>]*encoding=[\"']([\w.:-]+)", head)
    name = match.group(1) if match else ""
    return map_encoding_to_html5(name, fallback_utf8=False) or ""


def decode_text(data: bytes, content_type: str = "") -> Text:
    """Decode a page: byte order mark, UTF-8, what is declared, what it looks like.

    UTF-8 (whole, or mostly so) goes before the declaration, since text of another charset is
    hardly ever valid UTF-8, and declarations are often wrong. What no charset decodes is replaced.
    """
    for bom, charset in BOMS:
        if data.startswith(bom):
            return _replaced(data[len(bom) :], charset)
    declared = declared_charset(data, content_type)
    order = [declared, "" if _is_utf8(declared) else "utf-8"]
    if not NOT_ASCII_BASED.search(declared):
        damaged = _replaced(data, "utf-8")
        if damaged.n_replaced == 0 or _is_mostly_utf8(damaged):
            return damaged
        order = order[:1]
    order.append(detect_encoding(data) or "")
    tries: list[Text] = []
    for charset in filter(None, order):
        try:
            return Text(data.decode(charset), charset, 0)
        except UnicodeDecodeError:
            tries.append(_replaced(data, charset))
        except LookupError:  # a charset that browsers know and Python does not
            continue
    tries.append(_replaced(data, "utf-8"))
    preferred = "utf-8" if _is_utf8(declared) else declared
    return min(tries, key=lambda text: (text.charset != preferred, text.n_replaced))


def _is_mostly_utf8(text: Text) -> bool:
    """Tell whether more of the bytes beyond ASCII made characters than not."""
    valid = sum(character > "\x7f" for character in text.text) - text.text.count("\ufffd")
    return valid > text.n_replaced


def _is_utf8(charset: str) -> bool:
    """Tell whether a charset's name means UTF-8."""
    return charset.replace("-", "").lower() == "utf8"


def _replaced(data: bytes, charset: str) -> Text:
    """Decode with replacements, counted apart from those the page itself holds."""
    text = data.decode(charset, "replace")
    if "\ufffd" not in text:
        return Text(text, charset, 0)
    return Text(
        text, charset, text.count("\ufffd") - data.decode(charset, "ignore").count("\ufffd")
    )


def clean_text(text: str) -> str:
    """Take out what is no text, even out line ends and blank lines, compose accents (NFC)."""
    for line_break in LINE_BREAKS:
        text = text.replace(line_break, "\n")
    text = UNWANTED.sub("", text).replace("\u00a0", " ")
    text = "\n".join(map(str.rstrip, text.split("\n")))
    if "\n\n\n" in text:
        text = re.sub(r"\n{3,}", "\n\n", text)
    return unicodedata.normalize("NFC", text).strip()
