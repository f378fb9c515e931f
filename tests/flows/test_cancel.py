"""R12: Cancel keeps what was trained and leaves no process; a kill shows as what it is.

50 cancels, about 20 minutes on an idle machine; TEXTMILL_PROOF=0.1 does 5 of them.
"""

import os
from contextlib import suppress

import psutil
import pytest

from tests.flows.conftest import new_project
from tests.flows.live import RUNS, TRAINS, live, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

CANCELS = max(2, int(50 * float(os.environ.get("TEXTMILL_PROOF", "1"))))
STEPS = 10**6  # never to its end
BEGIN_SECONDS = 300.0  # for a worker to begin a run on a busy machine
CANCEL_SECONDS = 10.0
INTERRUPTED_SECONDS = 30.0
CRASHED_SECONDS = 120.0


@pytest.fixture(scope="module")
def up(tmp_path_factory, data):
    with live(new_project(tmp_path_factory.mktemp("live") / "project", data)) as found:
        yield found


def begin(up) -> str:
    """Have a run begin to train; return its id."""
    before = up.attempt()
    run = up.pretrain(STEPS)
    until("training", BEGIN_SECONDS, lambda: up.attempt() > before)
    return run


def test_cancel_saves_leaves_nobody_and_is_gone_on_from(up):
    slowest, position = 0.0, 0
    for _ in range(CANCELS):
        run = begin(up)
        first = min(row["step"] for row in up.events() if row["attempt"] == up.attempt())
        assert first > position  # it went on where the one before was stopped
        up.cancel(run)
        took = until("no process", CANCEL_SECONDS, lambda: not up.processes(*TRAINS, *RUNS))
        slowest = max(slowest, took)
        done = max(row["step"] for row in up.events())
        position = up.saved()[-1]
        assert position >= done
        assert up.statuses(run) == {"interrupted"}
        until("cancelled", BEGIN_SECONDS, lambda run=run: up.state(run) == "CANCELLED")
    print(f"{CANCELS} cancels, the slowest took {slowest:.1f} s")  # noqa: T201 - the figure


def test_killed_worker_and_flow_show_as_interrupted_and_crashed(up):
    run = begin(up)
    for process in up.processes("worker start", *RUNS):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    interrupted = until(
        "interrupted", INTERRUPTED_SECONDS, lambda: up.statuses(run) == {"interrupted"}
    )
    crashed = until("crashed", CRASHED_SECONDS, lambda: up.state(run) == "CRASHED")
    assert not up.processes(*TRAINS)  # it does not outlive its flow
    print(f"interrupted after {interrupted:.1f} s, Crashed {crashed:.1f} s later")  # noqa: T201
    up.cancel(begin(up))  # a new worker takes new work
