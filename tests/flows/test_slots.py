"""A scheduled time runs once: a second run of it computes nothing and is shown as Skipped."""

from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import uuid4

import pytest

DUE = datetime(2026, 3, 1, 2, tzinfo=UTC)
pytestmark = [pytest.mark.timeout(600)]


@pytest.fixture
def scheduled(prefect_server, in_fresh_project, monkeypatch):
    """Have a schedule of one deployment start what runs, as far as textmill can see."""
    from prefect.context import FlowRunContext

    from flows import slots

    class Context:
        """The real one's flow and run, but started by a schedule, for DUE."""

        @staticmethod
        def get():
            real = FlowRunContext.get()
            changes = {"auto_scheduled": True, "deployment_id": uuid4(), "expected_start_time": DUE}
            return SimpleNamespace(
                flow=real.flow, flow_run=real.flow_run.model_copy(update=changes)
            )

    monkeypatch.setattr(slots, "FlowRunContext", Context)
    monkeypatch.setattr(slots, "deployment", SimpleNamespace(name="nightly"))


def test_the_second_run_of_a_time_is_skipped(scheduled):
    from prefect import flow, get_client
    from prefect.exceptions import Abort

    from flows.stage import stage

    computed, runs = [], []

    @flow(name="probe")
    def probe():
        from prefect.runtime import flow_run

        runs.append(flow_run.id)
        with stage("probe", {"name": "probe"}) as at:
            computed.append(at.run_id)
        return 1

    assert probe() == 1
    with pytest.raises(Abort, match="2026-03-01 02:00"):
        probe()
    assert len(computed) == 1 and len(runs) == 2
    with get_client(sync_client=True) as client:
        first, second = (client.read_flow_run(run).state for run in runs)
    assert (first.type.value, first.name) == ("COMPLETED", "Completed")
    assert (second.type.value, second.name) == ("CANCELLED", "Skipped")


def test_automations_are_shipped_once(prefect_server, monkeypatch):
    from prefect import get_client

    from flows import automations

    shipped = [automations.SILENT_RUNS]
    monkeypatch.setattr(automations, "evaluation_of_new", lambda client: shipped[0])
    for _ in range(2):
        automations.ship()
    with get_client(sync_client=True) as client:
        found = client.read_automations_by_name(automations.SILENT_RUNS.name)
        assert len(found) == 1
        client.delete_automation(found[0].id)
