"""Addresses of pages: one canonical spelling each, and the hosts that never enter the corpus."""

import ipaddress
import re
from collections.abc import Iterable
from functools import cache, lru_cache
from html import unescape
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

import tldextract
from w3lib.url import canonicalize_url

MAX_URL = 4096  # characters; longer addresses are tracking blobs or attacks
ENTITY = re.compile(r"&(?:[A-Za-z][A-Za-z0-9]{1,30}|#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6});")
CONTROL = re.compile("[\x00-\x1f\x7f]")
# Most addresses: already in the one spelling, but for a missing slash and the order of the query.
# \w is not used, since it matches letters of all scripts.
PLAIN = re.compile(
    r"(?P<host>https?://(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,24})"
    r"(?P<path>(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?)"
    r"(?:\?(?P<query>[A-Za-z0-9._~-]+=[A-Za-z0-9._~-]*(?:&[A-Za-z0-9._~-]+=[A-Za-z0-9._~-]*)*))?"
)
# the list that comes with the package: no network, nothing written outside the run's directory
EXTRACT = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)

Blocklist = Literal["none", "paper", "replications"]
REDDIT = ("reddit.com", "redd.it", "redditmedia.com", "reddituploads.com", "redditstatic.com")


def unescape_entities(url: str) -> str:
    """Replace HTML entities that end in `;` (dumps hold `&amp;`; `&copy=2` must stay as it is)."""
    return ENTITY.sub(lambda match: unescape(match.group()), url)


def canonical_url(url: str, *, escaped: bool = False) -> str:
    """Return the one spelling of a public http(s) address.

    Lower-case host in IDNA, no default port, no fragment, no utm_ parameter, sorted query,
    upper-case percent escapes. `escaped` says that the text holds HTML entities, as in dumps.

    Raises:
        ValueError: it is none; the message is the reason, without the address.
    """
    url = (unescape_entities(url) if escaped and "&" in url else url).strip()
    if len(url) > MAX_URL:
        raise ValueError("long-url")
    plain = PLAIN.fullmatch(url)
    if plain and "xn--" not in plain["host"] and len(plain["host"]) <= 253:
        return plain["host"] + (plain["path"] or "/") + _query(plain["query"] or "")
    return _canonical(url)


def _query(query: str) -> str:
    """Return plain parameters in order, without those of campaigns."""
    pairs = sorted(query.split("&"), key=lambda pair: pair.partition("=")[::2])
    kept = "&".join(pair for pair in pairs if not pair.lower().startswith("utm_"))
    return f"?{kept}" if kept else ""


def _canonical(url: str) -> str:
    """Return the one spelling of any address."""
    if CONTROL.search(url):
        raise ValueError("malformed-url")
    try:
        parts = urlsplit(canonicalize_url(url))
        port = parts.port
    except (ValueError, UnicodeError):
        raise ValueError("malformed-url") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError("not-http")
    host = (parts.hostname or "").rstrip(".")
    if not host or "@" in parts.netloc or not _is_spelled_well(host):
        raise ValueError("malformed-url")
    netloc = f"[{host}]" if ":" in host else host
    if port not in (None, 80 if parts.scheme == "http" else 443):
        netloc += f":{port}"
    query = "&".join(p for p in parts.query.split("&") if not p.lower().startswith("utm_"))
    return urlunsplit((parts.scheme, netloc, parts.path or "/", query, ""))


def _is_spelled_well(host: str) -> bool:
    """Tell whether a host is an IPv6 address or plain labels as DNS allows them."""
    return ":" in host or bool(
        len(host) <= 253 and re.fullmatch(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", host)
    )


def read_list(name: str) -> frozenset[str]:
    """Return the entries of a list beside this file: one a line, `#` starts a comment."""
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    lines = (line.partition("#")[0].strip().lower() for line in text.splitlines())
    return frozenset(line for line in lines if line)


@cache
def blocked_domains(blocklist: Blocklist = "paper") -> frozenset[str]:
    """Return a shipped list of blocked domains."""
    return frozenset() if blocklist == "none" else read_list(f"blocked_domains_{blocklist}.txt")


@cache
def blocked_extensions() -> frozenset[str]:
    """Return the shipped list of file endings that are no pages."""
    return read_list("blocked_extensions.txt")


def is_below(host: str, domains: Iterable[str]) -> bool:
    """Tell whether a host is one of the domains or lies below one, label by label."""
    labels = host.split(".")
    tails = {".".join(labels[i:]) for i in range(len(labels))}
    return not tails.isdisjoint(domains)


def registered_name(host: str) -> str:
    """Return the label before the public suffix: `wikipedia` of en.m.wikipedia.org."""
    return EXTRACT(host).domain


def is_public(host: str) -> bool:
    """Tell whether a host may be outside one's own network, by its spelling alone."""
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return "." in host and not is_below(host, ("localhost", "local", "internal"))


def host_of(url: str) -> str:
    """Return the host of a canonical address."""
    netloc = url.split("/", 3)[2]
    return netloc[1:].partition("]")[0] if netloc[0] == "[" else netloc.partition(":")[0]


def ending_of(url: str) -> str:
    """Return what stands behind the last dot of a canonical address's path, in lower case."""
    name = url.partition("?")[0].rpartition("/")[2]
    stem, _, ending = name.rpartition(".")
    return ending.lower() if stem else ""


def refusal(url: str, blocked: frozenset[str] = frozenset()) -> str:
    """Return why a canonical address may not enter the corpus, or an empty string.

    The same rule holds for links and for what they redirect to.
    """
    return _host_refusal(host_of(url), blocked)


@lru_cache(maxsize=2**16)  # few hosts make up most of the links
def _host_refusal(host: str, blocked: frozenset[str]) -> str:
    """Return why a host's pages may not enter the corpus, or an empty string."""
    if not is_public(host):
        return "not-public"
    if registered_name(host) == "wikipedia":  # GPT-2 paper, section 2.1: all Wikipedia removed
        return "wikipedia"
    if is_below(host, REDDIT):  # outbound links only; no text of Reddit itself
        return "reddit"
    return "blocked-domain" if is_below(host, blocked) else ""
