"""A scheduled time of a deployment is used once, whatever Prefect's own database says."""

import logging

from prefect import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import Abort
from prefect.runtime import deployment
from prefect.states import Cancelled, State

from registry import leases
from registry.workspace import Workspace

logger = logging.getLogger(__name__)


def take_slot(workspace: Workspace) -> None:
    """Make sure that this flow run, if a schedule started it, is the only one of its time.

    Raises:
        Abort: another run has taken the time; this one is shown as Skipped.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if not (
        context and run and run.auto_scheduled and run.deployment_id and run.expected_start_time
    ):
        return
    due = run.expected_start_time
    # by its name: a deployment that is made anew has another id, and the same times
    name = f"{context.flow.name}/{deployment.name}" if context.flow else deployment.name
    holder = leases.claim_slot(workspace, name, due, str(run.id))
    if holder is not None:
        message = f"the run of {due:%Y-%m-%d %H:%M} UTC is {holder}; this one does nothing"
        logger.warning("skipped: %s", message)
        with get_client(sync_client=True) as client:
            skipped: State = Cancelled(name="Skipped", message=message)
            client.set_flow_run_state(run.id, skipped, force=True)
        raise Abort(message)


def gone(workspace: Workspace) -> list[FlowRun]:
    """Return the flow runs that Prefect shows as running though their process here is gone."""
    running = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING]))
    with get_client(sync_client=True) as client:
        shown = client.read_flow_runs(flow_run_filter=FlowRunFilter(state=running))
    return [run for run in shown if leases.is_gone(workspace, str(run.id))]
