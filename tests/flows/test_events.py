"""Events of the product on a real server, and the automations that act on them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import yaml
from prefect import flow
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events.clients import PrefectEventsClient
from prefect.events.worker import EventsWorker
from prefect.runtime import flow_run
from prefect.states import Completed, Crashed, InfrastructurePending, Pending, Running, Submitting
from prefect.utilities.callables import parameter_schema

from flows.onboard import onboard_model
from infra.automations import (
    AUTOMATIONS,
    DEAD_RUNS,
    DEAD_RUNS_AGAIN,
    ENDLESS_RUNS,
    MORTAL_FLOWS,
    NOTIFY_BLOCK,
    NOTIFY_OF_MODELS,
    NOTIFY_OF_RUNS,
    ONBOARD,
    ONBOARD_DEPLOYMENT,
    create_automations,
    notification_blocks,
)
from infra.local.prefect_server import PrefectServer
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.promote.approval import Approval, Decision, record_approval
from paddock.lifecycle.promote.promote import promote_snapshot, roll_back
from paddock.model.artifact import Manifest
from paddock.model.names import Revision
from paddock.model.reference import Reference
from tasks import policies
from tasks.events import EventName
from tasks.runner import PrefectRunner
from tests.support.http_server import QuietHandler, QuietServer, serving
from tests.support.pages import ROOT, code, rows, section, text_of
from tests.support.tiny_hub import NAME
from tests.support.waiting import wait_for, wait_for_value

OTHER = Revision("b" * 40)


@flow(**policies.FLOW)
def change_model(promoted: Any, other: Any) -> None:
    """A promotion, a rollback, and a decline."""
    runner = PrefectRunner()
    runner.run(promote_snapshot, other.id, "a test")
    runner.run(roll_back, Reference(other.id.model), "another test")
    declined = Approval.now(Decision.DECLINED, reason="the template is worse", by="Ann", replaces=str(promoted.id))
    runner.run(record_approval, other, declined)


@pytest.fixture
def other(pulled: Manifest, clients: Clients) -> Manifest:
    """A second revision with the same files, not promoted."""
    clients.volume.publish(replace(pulled, revision=OTHER))
    manifest = clients.volume.snapshot(replace(pulled.id, revision=OTHER))
    assert manifest
    return manifest


def events(server: PrefectServer, *names: str, resource: str | None = None) -> list[dict[str, Any]]:
    """The newest events with these names, oldest first."""
    wanted: dict[str, Any] = {"event": {"name": list(names)}, "order": "DESC"}
    if resource:
        wanted["resource"] = {"id": [resource]}
    answer = httpx.post(f"{server.url}/events/filter", json={"filter": wanted, "limit": 50}, trust_env=False)
    found: list[dict[str, Any]] = answer.raise_for_status().json()["events"]
    return found[::-1]


@contextmanager
def receiving() -> Iterator[tuple[str, list[Any]]]:
    """The address of a webhook, and what it was sent."""
    received: list[Any] = []

    class Webhook(QuietHandler):
        def do_POST(self) -> None:  # noqa: N802 - the name is http.server's
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

    server = QuietServer(("127.0.0.1", 0), Webhook)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_address[1]}/hook", received


@pytest.fixture
def no_automations(client: SyncPrefectClient) -> Iterator[None]:
    yield
    for automation in client.read_automations():
        client.delete_automation(automation.id)


@pytest.fixture
def onboarding(client: SyncPrefectClient) -> Iterator[UUID]:
    """The deployment of the onboarding, with its schema, without a worker."""
    flow_id = client.create_flow(onboard_model)
    schema = parameter_schema(onboard_model).model_dump_for_openapi()
    name = ONBOARD_DEPLOYMENT.partition("/")[2]
    deployment = client.create_deployment(flow_id, name, parameter_openapi_schema=schema, enforce_parameter_schema=True)
    yield deployment
    client.delete_deployment(deployment)


@pytest.fixture
def webhook(client: SyncPrefectClient) -> Iterator[list[Any]]:
    """The message to a notification block with the documented name."""
    with receiving() as (url, received):
        block = CustomWebhookNotificationBlock(
            name="paddock", url=url, json_data={"subject": "{{subject}}", "body": "{{body}}"}
        )
        block.save(NOTIFY_BLOCK)
        yield received
        for saved in notification_blocks(client):
            client.delete_block_document(saved.id)


def test_a_change_of_a_model_is_an_event_that_notifies_people(
    pulled: Manifest,
    other: Manifest,
    webhook: list[Any],
    no_automations: None,
    client: SyncPrefectClient,
    prefect_server: PrefectServer,
) -> None:
    assert list(create_automations(client)) == [
        f"{NOTIFY_OF_MODELS}: created",
        f"{NOTIFY_OF_RUNS}: created",
        f"{ONBOARD}: left out, since {ONBOARD_DEPLOYMENT} is not deployed",
        f"{DEAD_RUNS}: created",
        f"{DEAD_RUNS_AGAIN}: created",
        f"{ENDLESS_RUNS}: created",
    ]
    change_model(pulled, other)
    wait_for(lambda: len(webhook) >= 2)
    assert {message["subject"]: message["body"] for message in webhook} == {
        f"{pulled.id.short}: rolled-back": "another test",
        f"{other.id.short}: held-back": "declined by Ann: the template is worse",
    }
    volume = connect().volume.identity.name()
    names = [EventName.PROMOTED, EventName.ROLLED_BACK, EventName.HELD_BACK]

    def on_this_volume() -> list[dict[str, Any]]:
        found = events(prefect_server, *names, resource=f"paddock.model.{NAME}")
        return [event for event in found if event["resource"]["paddock.volume"] == volume]

    wait_for(lambda: len(on_this_volume()) == len(names))
    assert [event["event"] for event in on_this_volume()] == names
    promoted = on_this_volume()[0]
    assert promoted["resource"] == {
        "prefect.resource.id": f"paddock.model.{NAME}",
        "prefect.resource.name": other.id.short,
        "paddock.variant": "Q8_0",
        "paddock.revision": OTHER,
        "paddock.volume": volume,
    }
    assert (promoted["payload"]["reason"], promoted["payload"]["previous"]) == ("a test", pulled.revision)
    assert "change-model" in {related.get("prefect.resource.name") for related in promoted["related"]}


def test_a_server_that_takes_no_events_fails_no_step(
    pulled: Manifest, clients: Clients, other: Manifest, unreachable_events: None
) -> None:
    change_model(pulled, other)
    assert clients.volume.history(pulled.id.model)[-1].reason == "another test"


@pytest.fixture
def unreachable_events() -> Iterator[None]:
    """Send events to a port that nothing listens on, as behind a proxy without WebSockets."""
    EventsWorker.set_client_override(PrefectEventsClient, api_url="http://127.0.0.1:9/api", reconnection_attempts=0)
    yield
    EventsWorker.set_client_override(None)


def post_as_documented(server: PrefectServer, model: object) -> None:
    """Run the curl of the page, with this as the model."""
    (command,) = re.findall(r"^curl .*?^\}\]\"$", text_of("events.md"), re.MULTILINE | re.DOTALL)
    shown = json.dumps({"model": "org/name-GGUF"}).replace('"', '\\"')
    assert shown in command
    script = command.replace(shown, json.dumps({"model": model}).replace('"', '\\"')).replace("curl ", "curl -f ", 1)
    subprocess.run(["sh", "-c", script], env={**os.environ, "PREFECT_API_URL": server.url}, check=True)


def test_an_event_from_outside_starts_an_onboarding_of_a_model_with_a_usable_name(
    onboarding: UUID, no_automations: None, client: SyncPrefectClient, prefect_server: PrefectServer
) -> None:
    list(create_automations(client))
    (automation,) = client.read_automations_by_name(ONBOARD)
    unusable = ["../../{{ event.id }}", {"repo": NAME}, None]
    for model in [*unusable, NAME]:
        post_as_documented(prefect_server, model)
    made = partial(client.read_flow_runs, deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[onboarding])))
    (started,) = wait_for_value(lambda: made() or None)
    assert started.parameters == {"model": NAME, "default": False}
    failed = partial(
        events,
        prefect_server,
        "prefect.automation.action.failed",
        resource=f"prefect.automation.{automation.id}",
    )
    wait_for(lambda: len(failed()) == len(unusable))
    assert all("Validation failed for field 'model'" in event["payload"]["reason"] for event in failed())
    assert len(made()) == 1


def test_a_bootstrap_again_changes_nothing_and_keeps_what_an_operator_disabled(
    onboarding: UUID, no_automations: None, client: SyncPrefectClient
) -> None:
    left_out, *created = create_automations(client)
    assert "no notification block named paddock-notify" in left_out
    assert created == [f"{name}: created" for name in (ONBOARD, DEAD_RUNS, DEAD_RUNS_AGAIN, ENDLESS_RUNS)]
    before = client.read_automations()
    client.pause_automation(before[0].id)
    assert list(create_automations(client))[1:] == [
        f"{automation.name}: exists{', disabled' * (automation.id == before[0].id)}"
        for automation in sorted(before, key=lambda automation: AUTOMATIONS.index(automation.name))
    ]
    list(create_automations(client, silence=timedelta(seconds=700)))
    after = {automation.id: automation for automation in client.read_automations()}
    assert set(after) == {automation.id for automation in before}
    assert not after[before[0].id].enabled
    (dead,) = client.read_automations_by_name(DEAD_RUNS)
    assert dead.trigger.within == timedelta(seconds=700)  # type: ignore[union-attr] # an event trigger


def test_the_flows_with_a_process_are_all_that_are_deployed_but_the_approval() -> None:
    deployed = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    flows = {one["entrypoint"].rpartition(".")[2].replace("_", "-") for one in deployed}
    assert flows - {"approve-promotion"} == set(MORTAL_FLOWS) & flows
    documented = rows(section(text_of("events.md"), "## Automations"))
    assert [code(cells[0]) for cells in documented] == list(AUTOMATIONS)


def test_a_run_that_was_wrongly_marked_as_dead_ends_with_its_own_state(client: SyncPrefectClient) -> None:
    @flow(**policies.FLOW)
    def slow() -> str:
        id = flow_run.get_id()
        assert id
        client.set_flow_run_state(UUID(id), Crashed(message="no heartbeat"))
        return "done"

    state = slow(return_state=True)
    assert client.read_flow_run(state.state_details.flow_run_id).state_type is StateType.COMPLETED  # type: ignore[arg-type]


@pytest.mark.torture  # 20 and 32 s of silence
@pytest.mark.parametrize(("failing", "looking", "factor"), [("", DEAD_RUNS, 1), (DEAD_RUNS, DEAD_RUNS_AGAIN, 2)])
def test_a_run_without_a_heartbeat_is_marked_as_crashed_and_no_other_is(
    failing: str,
    looking: str,
    factor: int,
    no_automations: None,
    client: SyncPrefectClient,
    prefect_server: PrefectServer,
) -> None:
    silence = timedelta(seconds=12 * factor)
    list(create_automations(client))
    assert f"{looking}: updated" in list(create_automations(client, silence=timedelta(seconds=12)))
    for automation in client.read_automations_by_name(failing):
        client.pause_automation(automation.id)

    @flow(name="serve-model")
    def mortal() -> None: ...

    @flow(name="approve-promotion")
    def waiting() -> None: ...

    @flow(name="somebody-elses")
    def foreign() -> None: ...

    flows = (mortal, mortal, mortal, waiting, foreign, mortal)
    dead, ended, alive, approval, other, last = (client.create_flow_run(one, state=Running()) for one in flows)
    for run, one in zip((dead, ended, alive, approval, other, last), flows, strict=True):
        beat(prefect_server, run, one.name)
    client.set_flow_run_state(ended.id, Completed())
    early: tuple[State[Any], ...] = (Pending(), Submitting(), InfrastructurePending(), Running())
    never_began = [client.create_flow_run(mortal, state=state) for state in early]  # killed before the first heartbeat

    def are_marked() -> bool:
        beat(prefect_server, alive, mortal.name)
        marked = (dead, last, *never_began)
        return all(client.read_flow_run(run.id).state_type is StateType.CRASHED for run in marked)

    assert wait_for(are_marked, limit_s=90, every_s=2) >= silence.total_seconds() - 2
    states = {run.id: client.read_flow_run(run.id).state_type for run in (ended, alive, approval, other)}
    assert states == {
        ended.id: StateType.COMPLETED,
        alive.id: StateType.RUNNING,
        approval.id: StateType.RUNNING,
        other.id: StateType.RUNNING,
    }
    assert f"no heartbeat for {12 * factor} s" in str(client.read_flow_run(dead.id).state)


def beat(server: PrefectServer, run: FlowRun, name: str) -> None:
    """The event that Prefect's engine sends for a run."""
    event = {
        "event": "prefect.flow-run.heartbeat",
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run.id}"},
        "related": [
            {
                "prefect.resource.id": f"prefect.flow.{run.flow_id}",
                "prefect.resource.role": "flow",
                "prefect.resource.name": name,
            }
        ],
    }
    httpx.post(f"{server.url}/events", json=[event], trust_env=False).raise_for_status()


@pytest.mark.torture  # a minute of waiting
def test_a_run_that_takes_too_long_is_cancelled_and_no_other_is(
    no_automations: None, client: SyncPrefectClient
) -> None:
    limit = timedelta(seconds=12)
    list(create_automations(client, time_limit=limit))

    @flow(name="acquire-model")
    def limited() -> None: ...

    @flow(name="serve-model")
    def serving() -> None: ...

    flows = (limited, limited, limited, serving)
    endless, ended, held_back, server = (client.create_flow_run(one, state=Pending()) for one in flows)
    for run in (endless, ended, held_back, server):
        client.set_flow_run_state(run.id, Running())
    client.set_flow_run_state(ended.id, Completed())
    client.set_flow_run_state(held_back.id, Completed(name="Held back"))
    # There is no worker, which would end its process and the cancellation.
    wait_for(lambda: client.read_flow_run(endless.id).state_type is StateType.CANCELLING, limit_s=90, every_s=1)
    time.sleep(20)  # the others' time has passed as well
    others = {run.id: client.read_flow_run(run.id).state_name for run in (ended, held_back, server)}
    assert others == {ended.id: "Completed", held_back.id: "Held back", server.id: "Running"}
