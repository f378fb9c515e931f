"""One row of a link dump, whatever its layout, to one submission.

Pushshift's Reddit submissions from 2005 on (numbers and flags as strings, is_self or over_18
absent, `ups` and `downs` for a score), Hacker News items (the Firebase API's, BigQuery's table
`full`), and plain tables of address, score and date.
"""

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any

MAX_INTEGER = 2**53  # larger numbers are damage, and not every JSON reader keeps them
FIELDS = {  # what a field is called; the first name that a row has counts
    "url": ("url", "link"),
    "score": ("score", "points", "karma"),
    "date": ("created_utc", "date", "time", "timestamp", "created_at", "created"),
}
FLAGS = ("type", "deleted", "dead", "promoted", "is_self", "domain", "over_18")
COLUMNS = frozenset(  # all that is read of a row
    (*sum(FIELDS.values(), ()), *FLAGS, "ups", "downs", "id", "subreddit")
)
OTHER_ITEMS = ("job", "comment", "poll", "pollopt", "comment_ranking")  # Hacker News, no stories


@dataclass(frozen=True, slots=True)
class Submission:
    """One post of a link, as far as we need it."""

    url: str  # as the dump spells it, HTML entities and all
    score: int
    id: str = ""
    created: int | None = None  # seconds since 1970, UTC
    subreddit: str = ""
    over_18: bool = False
    unfit: str = ""  # why the post is no recommendation of a page at all: "self-post", "job" ...


@dataclass(frozen=True, slots=True)
class Rejection:
    """A damaged record of a dump, or the damage that ends it (reason "container: ...")."""

    line: int  # from 1; of a table, the row
    offset: int  # of its first byte in the decoded stream; 0 in a table
    reason: str


def submission(row: dict[str, Any]) -> Submission:
    """Return the submission in a row.

    Raises:
        ValueError: there is none; the message is the reason.
    """
    url, unfit, kind = _field(row, "url"), _unfit(row), row.get("type")
    if not unfit and kind == "story" and not url:
        unfit = "self-post"  # Ask HN
    if unfit and not isinstance(url, str):
        url = ""
    if not isinstance(url, str):
        raise ValueError("no-url")
    key = row.get("id")
    return Submission(
        # a crosspost of a text post leads to a path of Reddit's own
        url=clean_string(f"https://www.reddit.com{url}" if url.startswith("/r/") else url),
        score=_score(row, needed=not unfit),
        id=f"hn-{key}" if kind == "story" and isinstance(key, int | str) else clean_string(key),
        created=to_time(_field(row, "date")),
        subreddit=clean_string(row.get("subreddit")),
        over_18=to_flag(row.get("over_18")),
        unfit=unfit,
    )


def _field(row: dict[str, Any], name: str) -> Any:
    """Return the value of a field under any of its names."""
    for key in FIELDS[name]:
        if (value := row.get(key)) is not None:
            return value
    return None


def _unfit(row: dict[str, Any]) -> str:
    """Return why a post is no link that people could recommend, or an empty string."""
    kind, domain = row.get("type"), row.get("domain")
    if kind is not None and kind in OTHER_ITEMS:
        return str(kind)
    for flag in ("deleted", "dead", "promoted"):  # promoted: an advertisement
        if to_flag(row.get(flag)):
            return flag
    # self.SUBREDDIT for self posts, also where is_self is absent
    if to_flag(row.get("is_self")) or (isinstance(domain, str) and domain.startswith("self.")):
        return "self-post"
    return ""


def _score(row: dict[str, Any], *, needed: bool) -> int:
    """Return the karma of a post; 0 where there is none and none is needed."""
    value = _field(row, "score")
    try:
        if value is None and row.get("ups") is not None:
            return to_integer(row["ups"]) - to_integer(row.get("downs") or 0)
        return to_integer(value)
    except ValueError:
        if not needed:
            return 0
        raise ValueError("no-score" if value is None else "bad-score") from None


def clean_string(value: Any) -> str:
    """Return a string that UTF-8 can hold, or an empty one for anything else."""
    if not isinstance(value, str):
        return ""
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def to_integer(value: Any) -> int:
    """Return a whole number from a number or its spelling, rounded down.

    Raises:
        ValueError: it is none, or out of all proportion.
    """
    if type(value) is int and -MAX_INTEGER <= value <= MAX_INTEGER:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"not a number: {str(value)[:40]!r}")
    try:
        number = float(value)
    except OverflowError:  # a whole number of 400 digits
        number = math.inf
    if not math.isfinite(number) or abs(number) > MAX_INTEGER:
        raise ValueError(f"out of range: {str(value)[:40]!r}")
    return math.floor(number)


def to_time(value: Any) -> int | None:
    """Return seconds since 1970 from a number, its spelling or a date; None if unknown."""
    if value is None:
        return None
    try:
        return to_integer(value)
    except ValueError:
        pass  # perhaps a date
    try:
        moment = _moment(value)
    except ValueError:
        return None
    if moment is None:
        return None
    return math.floor((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _moment(value: Any) -> datetime | None:
    """Return the moment that a date says; ValueError if it is misspelt."""
    if isinstance(value, str):
        text = value.strip()  # BigQuery writes "2006-10-09 18:21:51 UTC"
        return datetime.fromisoformat(f"{text[:-4]}+00:00" if text.endswith(" UTC") else text)
    if isinstance(value, datetime):
        return value
    return datetime.combine(value, time()) if isinstance(value, date) else None


def to_flag(value: Any) -> bool:
    """Return whether a field says true; older dumps hold strings."""
    if value is None or value is False:
        return False
    return value is True or (isinstance(value, str) and value.lower() == "true") or value == 1
