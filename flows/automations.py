"""What Prefect does by itself on events; `textmill up` runs this file once its server is there.

Automations are found by their names and brought up to date, so that a restart makes none twice.
"""

import base64
import json
from datetime import timedelta
from uuid import UUID

from prefect import get_client
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import CallWebhook, ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.settings import get_current_settings

HEARTBEAT = "prefect.flow-run.heartbeat"
ENDS = {f"prefect.flow-run.{end}" for end in ("Completed", "Failed", "Cancelled", "Crashed")}
SILENCE = timedelta(seconds=90)  # three of the heartbeats that settings.py asks for
LATE = "prefect.flow-run.Late"  # Prefect calls a run so 15 s after it was due
TAKEN = {f"prefect.flow-run.{how}" for how in ("Pending", "Running", "AwaitingConcurrencySlot")}
PATIENCE = timedelta(seconds=30)  # a restarted worker is back by then

SILENT_RUNS = AutomationCore(
    name="textmill: a silent run is crashed",
    description="A flow run that sends no heartbeat has lost its process: it must not look alive.",
    trigger=EventTrigger(
        match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
        for_each={"prefect.resource.id"},
        after={HEARTBEAT},
        expect={HEARTBEAT, *ENDS},
        posture=Posture.Proactive,
        threshold=1,
        within=SILENCE,
    ),
    actions=[
        ChangeFlowRunState(
            state=StateType.CRASHED,
            name="Interrupted",
            message="no heartbeat: its process is gone; run it again to go on",
        )
    ],
)


def evaluation_of_new(client: SyncPrefectClient) -> AutomationCore:
    """Return the automation that scores a checkpoint as soon as pretraining has made it."""
    pretrain = client.read_deployment_by_name("pretrain/pretrain").id
    evaluate = client.read_deployment_by_name("evaluate_new/evaluate-new").id
    return AutomationCore(
        name="textmill: a new checkpoint is evaluated",
        description="Runs evaluate-new when a run of the pretrain deployment has completed.",
        trigger=EventTrigger(
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification(
                {"prefect.resource.id": [f"prefect.deployment.{pretrain}"]}
            ),
            for_each={"prefect.resource.id"},
            expect={"prefect.flow-run.Completed"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[RunDeployment(source="selected", deployment_id=evaluate)],
    )


def why_late(logs: UUID) -> AutomationCore:
    """Return the automation that writes into a run's log why it does not start.

    A late run has no process that could, and its state must not be set from here: a worker may
    take the run at that moment.
    """
    line = {
        "name": "textmill",
        "level": 30,
        "message": "Late: no worker of the pool {{ flow_run.work_pool_name }} has taken this run. "
        "`textmill up` starts one for the pool local, `textmill worker --pool NAME` for another; "
        "see also whether the pool is paused or full. It begins as soon as a worker takes it.",
        "timestamp": "{{ firing.triggered }}",
        "flow_run_id": "{{ flow_run.id }}",
    }
    return AutomationCore(
        name="textmill: a late run says why",
        description="A run that no worker takes gets a line in its log: what is missing.",
        trigger=EventTrigger(
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            after={LATE},
            expect=TAKEN | ENDS,
            posture=Posture.Proactive,
            threshold=1,
            within=PATIENCE,
        ),
        actions=[CallWebhook(block_document_id=logs, payload=json.dumps([line]))],
    )


def log_webhook() -> UUID:
    """Return the block by which an automation writes into Prefect's own logs."""
    api = get_current_settings().api
    headers = {"Content-Type": "application/json"}
    if api.auth_string:
        token = base64.b64encode(api.auth_string.get_secret_value().encode()).decode()
        headers["Authorization"] = f"Basic {token}"
    block = Webhook(url=f"{api.url}/logs/", headers=headers)
    made: UUID = block.save("textmill-logs", overwrite=True)  # type: ignore[assignment]
    return made


def ship() -> None:
    """Create the automations, or bring them up to date; one that was switched off stays off."""
    with get_client(sync_client=True) as client:
        for wanted in (SILENT_RUNS, why_late(log_webhook()), evaluation_of_new(client)):
            known = client.read_automations_by_name(wanted.name)
            if not known:
                client.create_automation(wanted)
            for automation in known[:1]:
                same = wanted.model_copy(update={"enabled": automation.enabled})
                client.update_automation(automation.id, same)
            for automation in known[1:]:
                client.delete_automation(automation.id)


if __name__ == "__main__":
    ship()
