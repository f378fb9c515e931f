"""What Prefect does by itself on events; `textmill up` runs this file once its server is there.

Automations are found by their names and brought up to date, so that a restart makes none twice.
"""

from datetime import timedelta

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

HEARTBEAT = "prefect.flow-run.heartbeat"
ENDS = {f"prefect.flow-run.{end}" for end in ("Completed", "Failed", "Cancelled", "Crashed")}
SILENCE = timedelta(seconds=90)  # three of the heartbeats that settings.py asks for

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


def ship() -> None:
    """Create the automations, or bring them up to date; one that was switched off stays off."""
    with get_client(sync_client=True) as client:
        for wanted in (SILENT_RUNS, evaluation_of_new(client)):
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
