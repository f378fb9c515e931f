"""R14: Prefect's server is dead while a run ends; what it did stands, and is not done again.

OUTAGE seconds after the end, five minutes in full; TEXTMILL_PROOF=0.2 waits one.
"""

import os
import signal
import time

import pytest

from registry import catalogue, db
from tests.flows.conftest import new_project
from tests.flows.live import live, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

OUTAGE = 300 * float(os.environ.get("TEXTMILL_PROOF", "1"))
STEPS = 3000  # half a minute of a tiny model
LONGEST = 1800.0


@pytest.fixture(scope="module")
def up(tmp_path_factory, data):
    with live(new_project(tmp_path_factory.mktemp("away") / "project", data)) as found:
        yield found


def made(up) -> list[str]:
    """The checkpoints in the catalogue."""
    with db.reading(up.workspace.database_url) as session:
        rows = catalogue.list_artifacts(session, kind="checkpoint", name="live")
        return [row.fingerprint for row in rows]


def test_work_that_ends_without_prefect_is_done(up):
    run = up.pretrain(STEPS)
    until("training", LONGEST, lambda: up.attempt() == 1)
    up.up.send_signal(signal.SIGSTOP)  # so that it does not start the server again
    try:
        [server] = up.processes("flows.prefect_app")
        server.kill()
        until("checkpoint", LONGEST, lambda: made(up))
        until("completed", LONGEST, lambda: up.statuses(run) == {"completed"})
        time.sleep(OUTAGE)
    finally:
        up.up.send_signal(signal.SIGCONT)
    until("Prefect", LONGEST, lambda: up.answers())
    checkpoint = made(up)
    again = up.pretrain(STEPS)
    until("second run", LONGEST, lambda: up.state(again) == "COMPLETED")
    assert up.attempt() == 1  # nothing was trained
    assert made(up) == checkpoint
    assert up.statuses(run) == up.statuses(again) == {"completed"}
