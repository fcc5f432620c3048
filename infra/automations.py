"""Create Paddock's automations on a Prefect server: notifications, onboarding on an event, dead runs, and endless ones.

An automation is found again by its name and updated where it differs. One that an operator disabled stays disabled.
Notifications are sent through the blocks named `paddock-notify`: webhooks, mail, or any other notification block of
Prefect's. Without one, nobody is notified.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.client.schemas.objects import BlockDocument, StateType
from prefect.events.actions import CancelFlowRun, ChangeFlowRunState, RunDeployment, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

NOTIFY_BLOCK = "paddock-notify"
NOTIFY_OF_MODELS = "paddock: notify of models"
NOTIFY_OF_RUNS = "paddock: notify of runs"
ONBOARD = "paddock: onboard an updated repository"
DEAD_RUNS = "paddock: mark dead runs as crashed"
DEAD_RUNS_AGAIN = "paddock: look for dead runs again"
ENDLESS_RUNS = "paddock: cancel endless runs"

AUTOMATIONS = (NOTIFY_OF_MODELS, NOTIFY_OF_RUNS, ONBOARD, DEAD_RUNS, DEAD_RUNS_AGAIN, ENDLESS_RUNS)

ONBOARD_DEPLOYMENT = "onboard-model/onboard"
REPOSITORY_UPDATED = "huggingface.repository.updated"
"""Emitted by a relay of the Hub's webhooks, with the payload `{"model": "org/name"}`."""

TOLD_EVENTS = ("paddock.model.held-back", "paddock.model.rolled-back", "paddock.model.damaged")
TOLD_FLOWS = ("refresh-catalog", "maintain-volume", "approve-promotion")
TOLD_STATES = ("Failed", "TimedOut", "Crashed", "Suspended")
"""Of these flows only an approval is ever suspended: it waits for a person."""

ENDED_STATES = ("Completed", "Failed", "TimedOut", "Crashed", "Cancelled")
"""States in which a run has ended. Prefect refuses to cancel one that ended under another name, such as "Held back"."""

STARTING_STATES = ("Pending", "Submitting", "InfrastructurePending", "Running")
"""States of a run from when a worker takes it until its first heartbeat."""

MORTAL_FLOWS = (
    "onboard-model",
    "acquire-model",
    "validate-model",
    "cache-model",
    "restore-model",
    "promote-model",
    "rollback-model",
    "benchmark-model",
    "compare-model",
    "serve-model",
    "refresh-catalog",
    "refresh-entry",
    "maintain-volume",
)
"""The flows whose runs have a process until they end. An approval waits without one, and has no heartbeat then."""

SILENCE = timedelta(minutes=15)
"""A run without a heartbeat for so long is dead. Prefect sends one every 3 minutes."""

TIME_LIMIT = timedelta(days=2)
"""A run that is not done after so long hangs: a heartbeat says only that its process lives."""


def create_automations(
    client: SyncPrefectClient, *, silence: timedelta = SILENCE, time_limit: timedelta = TIME_LIMIT
) -> Iterator[str]:
    """Create or update the automations, and yield a line about each. The flows must be deployed already."""
    blocks = notification_blocks(client)
    if blocks:
        yield _apply(client, notify_of_models(blocks))
        yield _apply(client, notify_of_runs(blocks))
    else:
        yield (
            f"{NOTIFY_OF_MODELS}: left out, since there is no notification block named {NOTIFY_BLOCK}."
            " docs/events.md says how to create one; then run the bootstrap again"
        )
    try:
        deployment = client.read_deployment_by_name(ONBOARD_DEPLOYMENT)
    except ObjectNotFound:
        yield f"{ONBOARD}: left out, since {ONBOARD_DEPLOYMENT} is not deployed"
    else:
        yield _apply(client, onboard_updated(deployment.id))
    yield _apply(client, mark_dead_runs(silence))
    yield _apply(client, mark_dead_runs(2 * silence, name=DEAD_RUNS_AGAIN))
    yield _apply(client, cancel_endless_runs(time_limit))


def notification_blocks(client: SyncPrefectClient) -> list[BlockDocument]:
    """The blocks named `paddock-notify` that can notify. A name is unique for each type of block."""
    found: list[BlockDocument] = []
    while page := client.read_block_documents(offset=len(found), limit=200, include_secrets=False):
        found += page
    named = [block for block in found if block.name == NOTIFY_BLOCK and block.block_schema]
    return [block for block in named if "notify" in (block.block_schema.capabilities if block.block_schema else ())]


def notify_of_models(blocks: Sequence[BlockDocument]) -> AutomationCore:
    return AutomationCore(
        name=NOTIFY_OF_MODELS,
        description="Notify when a model is held back or rolled back, or a damaged file cannot be repaired.",
        trigger=EventTrigger(expect=set(TOLD_EVENTS), match=_match({"prefect.resource.id": "paddock.model.*"})),
        actions=_notify(
            blocks,
            subject="{{ event.resource.name }}: {{ event.event.split('.')[-1] }}",
            body="{{ event.payload.reason }}",
        ),
    )


def notify_of_runs(blocks: Sequence[BlockDocument]) -> AutomationCore:
    return AutomationCore(
        name=NOTIFY_OF_RUNS,
        description="Notify when a refresh or a maintenance failed, or an approval waits or ended without an answer.",
        trigger=EventTrigger(
            expect={f"prefect.flow-run.{state}" for state in TOLD_STATES},
            match=_match({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=_flows(TOLD_FLOWS),
        ),
        actions=_notify(
            blocks,
            subject="{{ flow_run.name }}: {{ flow_run.state.name }}",
            body="{{ flow_run.state.message or '' }} {{ flow_run|ui_url }}",
        ),
    )


def onboard_updated(deployment: UUID) -> AutomationCore:
    """The model's name comes from outside: the server holds it to the deployment's schema before it makes a run. Which
    variant is the default is for people and the catalog."""
    return AutomationCore(
        name=ONBOARD,
        description=f"Onboard the model of each event {REPOSITORY_UPDATED}.",
        trigger=EventTrigger(expect={REPOSITORY_UPDATED}),
        actions=[
            RunDeployment(deployment_id=deployment, parameters={"model": "{{ event.payload.model }}", "default": False})
        ],
    )


def mark_dead_runs(silence: timedelta, *, name: str = DEAD_RUNS) -> AutomationCore:
    """A run that ended or whose heartbeat was only late is not changed by it, or ends with its own state later.

    A run whose worker dies before the first heartbeat is watched from the moment on at which a worker takes it.

    Prefect tries an action once, and forgets the run when it has tried: where the database is away at that moment, the
    run would stay Running. So a second one looks after twice the silence, and finds what the first one left.
    """
    return AutomationCore(
        name=name,
        description=f"Mark a run as Crashed that had no heartbeat for {silence.total_seconds():.0f} s.",
        trigger=EventTrigger(
            after={*(f"prefect.flow-run.{state}" for state in STARTING_STATES), "prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            match=_match({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=_flows(MORTAL_FLOWS),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=silence,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"no heartbeat for {silence.total_seconds():.0f} s: the run's process or machine is gone",
            )
        ],
    )


def cancel_endless_runs(limit: timedelta) -> AutomationCore:
    """A server's run has no limit. The worker of a run that is cancelled ends its process."""
    hours = limit.total_seconds() / 3600
    return AutomationCore(
        name=ENDLESS_RUNS,
        description=f"Cancel a run that is not done {hours:g} hours after it began.",
        trigger=EventTrigger(
            after={"prefect.flow-run.Running"},
            expect={f"prefect.flow-run.{state}" for state in ENDED_STATES},
            match=_match({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=_flows([flow for flow in MORTAL_FLOWS if flow != "serve-model"]),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=limit,
        ),
        actions=[CancelFlowRun()],
    )


def _notify(blocks: Sequence[BlockDocument], *, subject: str, body: str) -> list[SendNotification]:
    return [SendNotification(block_document_id=block.id, subject=subject, body=body) for block in blocks]


def _match(labels: dict[str, Any]) -> Any:
    from prefect.events.schemas.events import ResourceSpecification

    return ResourceSpecification.model_validate(labels)


def _flows(names: Sequence[str]) -> Any:
    return _match({"prefect.resource.role": "flow", "prefect.resource.name": list(names)})


def _apply(client: SyncPrefectClient, wanted: AutomationCore) -> str:
    """Create the automation, or update the one of its name where it differs."""
    existing = next(iter(client.read_automations_by_name(wanted.name)), None)
    if existing is None:
        client.create_automation(wanted)
        return f"{wanted.name}: created"
    disabled = "" if existing.enabled else ", disabled"
    if _definition(existing) == _definition(wanted):  # an update would forget the runs that it watches
        return f"{wanted.name}: exists{disabled}"
    # The client leaves out the fields that were not given, and the server refuses an update without them.
    whole = AutomationCore.model_validate(
        {**wanted.model_dump(exclude={"owner_resource"}), "enabled": existing.enabled}
    )
    client.update_automation(existing.id, whole)
    return f"{wanted.name}: updated{disabled}"


def _definition(automation: AutomationCore) -> dict[str, Any]:
    """The definition of the automation, without the server's ids and the operator's switch."""
    value = automation.model_dump(mode="json", include={"description", "trigger", "actions"})
    for name in ("expect", "after", "for_each"):
        value["trigger"][name] = sorted(value["trigger"][name])
    return value
