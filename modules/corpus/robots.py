"""Robots Exclusion Protocol (RFC 9309): what a site lets us fetch, and how often."""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from protego import Protego

from modules.config import Config
from modules.corpus.client import Answer, Failure
from modules.corpus.decode import DecodeError
from modules.corpus.pages import REDIRECTS

AGENT_LINE = re.compile(r"\s*(user-agent|useragent|user agent)\b[\s:]*", re.IGNORECASE)
CACHED = 10_000  # sites whose rules are kept in memory

Get = Callable[[str], Awaitable[Answer]]


class RobotsConfig(Config):
    """How robots.txt is read."""

    obey: bool = True
    """Ask for robots.txt and obey it. Off only for one's own sites."""
    seconds: float = 10.0
    """Time for a robots.txt; the site counts as unreachable after it."""
    max_bytes: int = 500 * 2**10  # RFC 9309, section 2.5: at least 500 KiB
    """What comes after so many bytes is not read."""
    max_redirects: int = 5  # RFC 9309, section 2.3.1.2
    """Redirects followed from a robots.txt; after more it counts as missing."""
    max_crawl_delay: float = 30.0
    """A longer Crawl-delay (not in the RFC) is cut to this."""


@dataclass(frozen=True)
class Rules:
    """The rules of one site for us."""

    parsed: Protego | None = None
    reason: str = ""  # why nothing may be fetched now
    detail: str = ""
    delay: float = 0.0  # seconds between requests

    def verdict(self, url: str, agent: str) -> str:
        """Return why a page may not be fetched, or an empty string."""
        if self.reason or self.parsed is None:
            return self.reason
        return "" if self.parsed.can_fetch(url, agent) else "robots"


EVERYTHING = Rules()


def unreachable(detail: str) -> Rules:
    """Return the rules of a site that does not tell them: nothing (RFC 9309, section 2.3.1.4)."""
    return Rules(reason="robots-unreachable", detail=detail)


def parse_rules(text: str, agent: str, config: RobotsConfig) -> Rules:
    """Read a robots.txt.

    Groups for other agents become those of one: thousands of agents in front of thousands of
    rules would make the parser keep each pair of them.
    """
    lines = []
    for line in text.splitlines():
        found = AGENT_LINE.match(line)
        named = line[found.end() :].partition("#")[0].strip().lower() if found else ""
        other = found and named != "*" and named.replace("*", "") not in (agent, "")
        lines.append("User-agent: another" if other else line)
    parsed = Protego.parse("\n".join(lines))
    return Rules(parsed, delay=min(parsed.crawl_delay(agent) or 0.0, config.max_crawl_delay))


class Robots:
    """Knows the rules of the sites asked about lately."""

    def __init__(self, get: Get, agent: str, config: RobotsConfig) -> None:
        """Use `get` to fetch a robots.txt; `agent` is our product token."""
        self._get, self._agent, self._config = get, agent.lower(), config
        self._known: OrderedDict[str, asyncio.Task[Rules]] = OrderedDict()

    async def rules(self, url: str) -> Rules:
        """Return the rules of a page's site, asking it once."""
        if not self._config.obey:
            return EVERYTHING
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        if origin not in self._known:
            self._known[origin] = asyncio.create_task(self._load(origin))
            if len(self._known) > CACHED:
                self._known.popitem(last=False)
        self._known.move_to_end(origin)
        return await asyncio.shield(self._known[origin])

    async def _load(self, origin: str) -> Rules:
        """Ask a site for its rules within the time there is."""
        try:
            async with asyncio.timeout(self._config.seconds):
                return await self._follow(f"{origin}/robots.txt")
        except TimeoutError:
            return unreachable("timeout")
        except Failure as failure:  # what ails the site for good names itself
            known = not failure.transient
            return Rules(reason=failure.reason) if known else unreachable(failure.reason)

    async def _follow(self, url: str) -> Rules:
        """Ask for a robots.txt, through redirects."""
        for _ in range(self._config.max_redirects + 1):
            answer = await self._get(url)
            location = answer.headers.get("location", "").strip()
            if answer.status in REDIRECTS and location:
                url = urljoin(url, location)
                continue
            return self._read(answer)
        return EVERYTHING

    def _read(self, answer: Answer) -> Rules:
        """Make rules of an answer."""
        if answer.status == 429 or answer.status >= 500:
            return unreachable(f"http-{answer.status}")
        if answer.status != 200:  # RFC 9309, section 2.3.1.3: 4xx is as good as no robots.txt
            return EVERYTHING
        if answer.truncated in ("time", "disconnect"):
            return unreachable(answer.cut)
        try:
            data = answer.decode(self._config.max_bytes)
        except DecodeError as error:
            return unreachable(str(error))
        text = data.decode("utf-8", "replace").removeprefix("\ufeff")
        return parse_rules(text, self._agent, self._config)
