"""Visit many pages of many sites at once, each site one request at a time and with pauses.

Every site has a queue and, while that holds anything, a visitor. A page is a visit; where it
redirects to another site it moves into that site's queue, so that no way leads around the pauses.
"""

import asyncio
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import count
from urllib.parse import urljoin, urlsplit

import aiohttp

from modules.config import Config
from modules.corpus.addresses import canonical_url, refusal
from modules.corpus.client import Answer, Failure, HttpConfig, ask
from modules.corpus.decode import DecodeError
from modules.corpus.network import BlockedAddress, NetworkConfig, check_address, literal
from modules.corpus.pages import REDIRECTS, PagesConfig, answer_reason
from modules.corpus.robots import Robots, RobotsConfig
from modules.corpus.warc import Capture
from modules.corpus.warc_writer import WarcFile

AGENT = "textmill"  # our product token, as robots.txt may name it
TRANSIENT_STATUS = (408, 425, 429)  # and all 5xx: another day may bring the page
SITE_IS_DOWN = ("connect", "dns", "timeout", "disconnect")


class FetchConfig(Config):
    """Who asks, how politely, and what is taken."""

    contact: str = ""
    """A mail or web address where the owners of sites reach you; sent with every request. Must be
    given, unless `network.allow_networks` is (tests on one's own machine)."""
    concurrency: int = 64
    """Requests at the same time, over all sites. Memory is 256 KiB for each."""
    per_host_concurrency: int = 1
    """Requests at the same time to one host."""
    per_host_delay_seconds: float = 1.0
    """Pause between two requests to one host; a longer Crawl-delay of its robots.txt counts."""
    retries: int = 2
    """Further tries in this run after a failure that may pass (time-out, reset, 429, 5xx)."""
    backoff_seconds: float = 5.0
    """Pause before the first further try; doubles each time, plus up to half of it by chance."""
    max_retry_after: float = 120.0
    """A server's Retry-After is waited for up to this; a longer one is left for a later run."""
    host_failures: int = 5
    """After so many failures in a row a host is left alone for the part (host-down)."""
    part_links: int = 5000
    """Links in one part, the unit of work: a WARC file; a finished part is not done again."""
    pages: PagesConfig = PagesConfig()
    """Which answers count as pages; redirects and refused hosts."""
    http: HttpConfig = HttpConfig()
    """What one page may cost."""
    robots: RobotsConfig = RobotsConfig()
    """How robots.txt is read."""
    network: NetworkConfig = NetworkConfig()
    """Which addresses may be connected to."""

    def check(self) -> None:
        """Raise ValueError if nobody could be asked whose crawler this is."""
        if not self.contact and not self.network.allow_networks:
            raise ValueError(
                "no contact given: --set fetch.contact=ADDRESS, a mail or web address of yours, "
                "is sent with every request"
            )

    @property
    def user_agent(self) -> str:
        """What every request says about us."""
        return f"Mozilla/5.0 (compatible; {AGENT}/0.1; +{self.contact or 'local test'})"


@dataclass
class Visit:
    """A link on its way: where it is now, and what it has left."""

    link: str
    url: str
    seconds: float
    seen: list[str] = field(default_factory=list)  # addresses that redirected
    tries: int = 0
    not_before: float = 0.0  # on the loop's clock
    capture: Capture | None = None  # the last answer


@dataclass(frozen=True)
class Outcome:
    """How a link's way ended."""

    visit: Visit
    reason: str  # why it is no page; empty if it is one
    detail: str
    transient: bool  # another day may bring the page
    time: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))


@dataclass
class Site:
    """The queue of one host."""

    delay: float
    visitors: int = 0
    next_request: float = 0.0  # on the loop's clock
    closed_until: float = 0.0  # as its Retry-After asks
    failures: int = 0  # in a row
    waiting: list[tuple[float, int, Visit]] = field(default_factory=list)  # a heap


def is_in_trouble(answer: Answer) -> bool:
    """Tell whether a server shows that it cannot, or will not now, do its work."""
    status = answer.status
    return status in TRANSIENT_STATUS or status >= 500 or answer.truncated == "time"


def retry_after(answer: Answer) -> float:
    """Return how many seconds a server asks to wait, 0 if it does not say."""
    text = answer.headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text[:9])
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):  # none, or without a time zone
        return 0.0


def is_allowed_literal(url: str, network: NetworkConfig) -> bool:
    """Tell whether an address names a number that the config allows though it is private."""
    address = literal(urlsplit(url).hostname or "")
    try:
        check_address(address or "", network)
    except BlockedAddress:
        return False
    return True


class Crawl:
    """Fetches a part's links; hands an outcome for each to `report`."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        robots: Robots,
        warc: WarcFile,
        report: Callable[[Outcome], None],
        config: FetchConfig,
    ) -> None:
        self._session, self._robots, self._warc = session, robots, warc
        self._report, self._config = report, config
        self._blocked = config.pages.blocked
        self._sites: dict[str, Site] = {}
        self._order = count()
        self._slots = asyncio.Semaphore(config.concurrency)
        self._now = asyncio.get_running_loop().time

    async def run(self, links: list[str]) -> None:
        """Visit all links; return when each has its outcome and each site its pause."""
        try:
            async with asyncio.TaskGroup() as self._group:
                for link in links:
                    self._start(link)
        except BaseExceptionGroup as group:  # the machine's trouble (a full disk): any one will do
            raise group.exceptions[0] from None
        pause = max((site.next_request for site in self._sites.values()), default=0) - self._now()
        await asyncio.sleep(max(0.0, pause))

    def _start(self, link: str) -> None:
        """Send a link on its way."""
        try:
            self._send(Visit(link, canonical_url(link), self._config.http.total_seconds))
        except ValueError as error:
            self._finish(Visit(link, link, 0), str(error))

    def _send(self, visit: Visit) -> None:
        """Put a visit into its site's queue, unless the corpus wants nothing from there."""
        reason = refusal(visit.url, self._blocked)
        if reason == "not-public" and is_allowed_literal(visit.url, self._config.network):
            reason = ""
        if reason:
            self._finish(visit, f"redirect-to-{reason}" if visit.seen else reason)
            return
        host = urlsplit(visit.url).hostname or ""
        site = self._sites.setdefault(host, Site(self._config.per_host_delay_seconds))
        heapq.heappush(site.waiting, (visit.not_before, next(self._order), visit))
        if site.visitors < self._config.per_host_concurrency:
            site.visitors += 1
            self._group.create_task(self._serve(site))

    async def _serve(self, site: Site) -> None:
        """Make the visits of one site, one after the other, until its queue is empty."""
        while site.waiting:
            if site.failures >= self._config.host_failures:
                self._finish(heapq.heappop(site.waiting)[-1], "host-down", transient=True)
                continue
            pause = max(site.waiting[0][0], site.next_request, site.closed_until) - self._now()
            if pause > 0:
                await asyncio.sleep(min(pause, 1.0))  # a visit may come that need not wait so long
                continue
            visit = heapq.heappop(site.waiting)[-1]
            site.next_request = self._now() + site.delay
            async with self._slots:
                await self._visit(visit, site)
            site.next_request = max(site.next_request, self._now() + site.delay)
        site.visitors -= 1

    async def _visit(self, visit: Visit, site: Site) -> None:
        """Ask for one page, and decide what its answer means."""
        start = self._now()
        try:
            answer = await self._ask(visit, site)
        except Failure as failure:
            site.failures += failure.reason in SITE_IS_DOWN
            self._fail(visit, failure)
            return
        visit.seconds -= self._now() - start
        with answer.body:
            visit.capture = answer.capture(self._warc.write(answer))
            if is_in_trouble(answer):
                site.failures += 1
                wait = min(retry_after(answer), self._config.max_retry_after)
                site.closed_until = self._now() + wait
            else:
                site.failures = 0
            self._judge(visit, answer, visit.capture)

    async def _ask(self, visit: Visit, site: Site) -> Answer:
        """Get the answer for where a visit is now, if the site's rules let us.

        Raises:
            Failure: there is none.
        """
        deadline = self._now() + visit.seconds
        try:
            async with asyncio.timeout_at(deadline):
                rules = await self._robots.rules(visit.url)
        except TimeoutError:
            raise Failure("timeout", "robots.txt", transient=True) from None
        site.delay = max(site.delay, rules.delay)
        if reason := rules.verdict(visit.url, AGENT):
            raise Failure(reason, rules.detail, transient=reason == "robots-unreachable")
        config = self._config
        return await ask(
            self._session,
            visit.url,
            config.http,
            config.network,
            seconds=deadline - self._now(),
            wanted=lambda answer: not answer_reason(answer.capture(), config.pages),
        )

    def _judge(self, visit: Visit, answer: Answer, capture: Capture) -> None:
        """Follow, finish or repeat a visit, whatever its answer asks for."""
        if answer.status in REDIRECTS:
            self._follow(visit, capture.location)
            return
        reason = answer.cut or answer_reason(capture, self._config.pages)
        if answer.cut and self._config.pages.keep_truncated:
            reason = ""
        elif not reason:
            reason = self._unreadable(answer)
        if not reason:
            self._finish(visit, "")
            return
        transient = is_in_trouble(answer) or answer.truncated == "disconnect"
        failure = Failure(reason, f"HTTP status {answer.status}", transient=transient)
        self._fail(visit, failure, wait=retry_after(answer))

    def _unreadable(self, answer: Answer) -> str:
        """Return why a whole body is no page, or an empty string."""
        try:
            answer.decode(self._config.http.max_decoded_bytes)
        except DecodeError as error:
            return str(error)
        return ""

    def _follow(self, visit: Visit, location: str) -> None:
        """Send a visit to where it is redirected; the rules are those of pages.follow."""
        visit.seen.append(visit.url)
        reason = "" if location else "redirect-no-location"
        try:
            visit.url = canonical_url(urljoin(visit.url, location))
        except ValueError as error:
            reason = reason or f"redirect-to-{error}"
        if not reason and visit.url in visit.seen:
            reason = "redirect-loop"
        elif not reason and len(visit.seen) > self._config.pages.max_redirects:
            reason = "redirect-limit"
        if reason:
            self._finish(visit, reason)
        else:
            visit.not_before = 0.0
            self._send(visit)

    def _fail(self, visit: Visit, failure: Failure, *, wait: float = 0.0) -> None:
        """Try again from the link after a pause, or write the visit off."""
        config = self._config
        again = failure.transient and failure.reason != "robots-unreachable"  # that is remembered
        if not again or visit.tries >= config.retries or wait > config.max_retry_after:
            self._finish(visit, failure.reason, detail=failure.detail, transient=failure.transient)
            return
        pause = config.backoff_seconds * 2**visit.tries * random.uniform(1, 1.5)
        self._send(
            Visit(
                visit.link,
                canonical_url(visit.link),
                config.http.total_seconds,
                tries=visit.tries + 1,
                not_before=self._now() + max(pause, wait),
            )
        )

    def _finish(
        self, visit: Visit, reason: str, *, detail: str = "", transient: bool = False
    ) -> None:
        """Report the outcome of a link."""
        self._report(Outcome(visit, reason, detail, transient))
