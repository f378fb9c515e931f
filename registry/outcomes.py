"""What came of fetching a link, and whether and when it is fetched again."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from registry.ledger_tables import LinkState

OUTCOME = ("state", "due", "attempts", "time", "reason_id", "warc_id", "offset")  # columns set
TRANSIENT = re.compile(  # reasons that may be gone another day; all others are final
    r"(redirect-)?(timeout|dns|reset|refused|connect|disconnect|unreachable|slow|truncated"
    r"|no-record|http-(408|425|429|5))"
)


@dataclass(frozen=True)
class Retry:
    """When a link that failed in passing is due again: 20 h, 40 h, 80 h, 160 h later."""

    attempts: int = 5  # then it has failed for good
    first: timedelta = timedelta(hours=20)  # the next night, even if that starts a little earlier

    def due(self, attempts: int, now: datetime) -> int:
        """Return when to try again after so many tries, in seconds since 1970."""
        return seconds(now + self.first * 2 ** (attempts - 1))


def seconds(moment: datetime) -> int:
    """Return seconds since 1970."""
    return int(moment.timestamp())


def outcome_row(
    outcome: Mapping[str, Any],
    attempts: int,
    now: datetime,
    retry: Retry,
    ids: Mapping[str | None, int | None],
) -> dict[str, Any]:
    """Return the columns that an outcome sets; `ids` has the numbers of reasons and files."""
    reason = outcome.get("reason") or ""
    again = bool(reason) and outcome.get("transient", bool(TRANSIENT.match(reason)))
    state, due = (LinkState.FAILED if reason else LinkState.DONE), None
    if again and attempts < retry.attempts:
        state, due = LinkState.RETRY, retry.due(attempts, now)
    return {
        "state": state.value,
        "due": due,
        "attempts": attempts,
        "time": seconds(now),
        "reason_id": ids[reason],
        "warc_id": ids[outcome.get("warc")],
        "offset": outcome.get("offset"),
    }
