"""Which captures lie in WARC files, kept on disk; in memory, only those that links lead to.

Every WARC file is read once and gets a list of its captures (some 100 bytes each; a WARC file of
Common Crawl holds 40,000), then the lists are searched for what is wanted, and again for each hop
of redirects.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from modules.corpus.addresses import canonical_url, refusal
from modules.corpus.rows import RowWriter
from modules.corpus.warc import Capture, Damage, read_captures
from modules.files import Progress, read_jsonl, write_jsonl
from modules.parallel import Spread

REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True)
class Stored:
    """A capture and the file it lies in."""

    warc: str  # relative to the root
    capture: Capture

    @property
    def rank(self) -> tuple[bool, bool, str, str, int, int]:
        """Sort captures of one address: good answers first, then the earliest."""
        c = self.capture
        return c.status != 200, not c.whole, c.date, self.warc, c.offset, c.index


@dataclass(frozen=True)
class Listing:
    """A WARC file and the list of its captures."""

    name: str  # relative to the root
    warc: Path
    list: Path


def listings(warcs: dict[str, Path], folder: Path) -> list[Listing]:
    """Say where the list of each WARC file lies."""
    digests = {name: hashlib.sha256(name.encode("utf-8", "replace")).hexdigest() for name in warcs}
    return [Listing(n, path, folder / f"{digests[n]}.jsonl.zst") for n, path in warcs.items()]


def list_captures(listing: Listing) -> None:
    """Write the list of a WARC file's captures, unless an earlier try has done it."""
    if not listing.list.is_file():
        write_jsonl(listing.list, map(_entry, read_captures(listing.warc)))


def _entry(item: Capture | Damage) -> dict[str, Any]:
    """Make the row of a capture under its canonical address, or of a damaged one."""
    if isinstance(item, Damage):
        return {"offset": item.offset, "reason": item.reason}
    try:
        return {"address": canonical_url(item.url), "capture": asdict(item) | {"url": ""}}
    except ValueError as error:
        return {"offset": item.offset, "reason": str(error)}


def list_all(lists: list[Listing], spread: Spread, progress: Progress) -> None:
    """Read all WARC files, each once."""
    for done, _ in enumerate(spread(list_captures, lists), 1):
        progress(done, len(lists), lists[done - 1].name)


def reject_damaged(lists: list[Listing], rejected: RowWriter, counts: Counter[str]) -> None:
    """Write the damaged records of all lists, count all records."""
    for listing in lists:
        for row in read_jsonl(listing.list):
            counts["records"] += 1
            if "reason" in row:
                rejected.write({"file": listing.name} | row)
                counts["rejected"] += 1


def _matching(lists: list[Listing], wanted: set[str]) -> Iterator[tuple[str, Stored]]:
    """Yield the captures of wanted addresses."""
    for listing in lists:
        for row in read_jsonl(listing.list):
            if row.get("address") in wanted:
                yield row["address"], Stored(listing.name, Capture(**row["capture"]))


def redirect_target(url: str, stored: Stored) -> str:
    """Return where a stored redirect leads, canonical, or an empty string if it does not say.

    Raises:
        ValueError: to no public http(s) address; the message is the reason.
    """
    location = stored.capture.location
    try:
        return canonical_url(urljoin(url, location)) if location else ""
    except ValueError as error:
        raise ValueError(str(error) if "-" in str(error) else "malformed-url") from None


def _targets(addresses: Iterable[str], found: dict[str, Stored]) -> set[str]:
    """Return the addresses that these redirect to and that have not been searched for."""
    targets = set()
    for address in addresses:
        stored = found.get(address)
        if stored is None or stored.capture.status not in REDIRECTS:
            continue
        try:
            targets.add(redirect_target(address, stored))
        except ValueError:
            continue  # follow() names the reason
    return {target for target in targets if target and not refusal(target)}


def find_captures(lists: list[Listing], urls: Iterable[str], hops: int) -> dict[str, Stored]:
    """Return the best capture of each address, and of what it redirects to in so many hops."""
    found: dict[str, Stored] = {}
    wanted, searched = set(urls), set[str]()
    for _ in range(hops + 1):
        for address, stored in _matching(lists, wanted):
            known = found.get(address)
            if known is None or stored.rank < known.rank:
                found[address] = stored
        searched |= wanted
        wanted = _targets(wanted, found) - searched
        if not wanted:
            break
    return found
