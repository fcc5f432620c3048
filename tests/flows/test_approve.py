"""A promotion that waits for a person: asked once, suspended without a process, and ended by the answer.

The runs are those of a deployment. Here the engine runs them in this process, as a worker's does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from playwright.sync_api import Page
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.states import Failed

from flows.approve import NOT_ANSWERED, approve_promotion, request_approval
from infra.bootstrap import POOLS, create_pools
from infra.local.prefect_server import PrefectServer
from infra.local.state import CHECKOUT
from infra.local.workers import delete_workers, start_worker
from paddock.errors import OrchestratorUnavailable, PromotionConflict
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.promote.approval import refusal, require_unchanged
from paddock.lifecycle.promote.gating import DEFAULT_TOO, PromotionScope
from paddock.model.artifact import Manifest
from paddock.model.names import Revision
from paddock.model.reference import Variant
from tests.support.browser import open_browser, save_screenshot
from tests.support.tiny_hub import MODEL
from tests.support.waiting import wait_for

APPROVE = {"decision": "approve", "reason": "better answers", "name": "Ann"}
DECLINE = {"decision": "decline", "reason": "the template is worse", "name": "Bob"}


@pytest.fixture
def deployed(client: SyncPrefectClient) -> Iterator[None]:
    """The flow's deployment, without a worker."""
    list(create_pools(client))
    deployment = client.create_deployment(
        client.create_flow(approve_promotion),
        "approve",
        entrypoint="flows.approve.approve_promotion",
        work_pool_name="paddock-io",
        pull_steps=[],
    )
    yield
    client.delete_deployment(deployment)
    for pool in POOLS:
        client.delete_work_pool(pool)


@pytest.fixture
def candidate(pulled: Manifest, clients: Clients) -> Manifest:
    """A revision that is not promoted, with the files of the one that is: the gates let it through."""
    return add_revision(clients, pulled, "c")


def add_revision(clients: Clients, manifest: Manifest, digit: str) -> Manifest:
    revision = Revision(digit * 40)
    clients.volume.publish(replace(manifest, revision=revision))
    added = clients.volume.snapshot(replace(manifest.id, revision=revision))
    assert added is not None
    return added


def request(candidate: Manifest) -> str:
    return request_approval(candidate, "- old template\n+ new template", DEFAULT_TOO, timeout_s=7 * 24 * 3600)


def runs_of_approvals(client: SyncPrefectClient) -> list[FlowRun]:
    of_approval = DeploymentFilter(name=DeploymentFilterName(any_=["approve"]))
    return client.read_flow_runs(deployment_filter=of_approval)


def only_run(client: SyncPrefectClient) -> FlowRun:
    (run,) = runs_of_approvals(client)
    return run


def work(client: SyncPrefectClient) -> FlowRun:
    """Run the scheduled run as a worker does, and return it as it is then."""
    run = only_run(client)
    with suppress(Pause):
        run_flow(approve_promotion, flow_run=run, parameters=run.parameters, return_type="state")
    return client.read_flow_run(run.id)


def test_a_promotion_waits_for_a_person_and_is_made(
    deployed: None, pulled: Manifest, candidate: Manifest, clients: Clients, client: SyncPrefectClient
) -> None:
    line = request(candidate)
    assert request(candidate) == line, "asked twice, there is one run"
    assert line == f"waiting for approval in the run approve {candidate.id.short} ({only_run(client).id})"
    run = work(client)
    assert run.state is not None
    assert (run.state_type, run.state_name) == (StateType.PAUSED, "Suspended")
    assert clients.volume.promoted(MODEL).holds(pulled.id)
    for unusable in ({}, {**APPROVE, "decision": "perhaps"}, {**APPROVE, "reason": "  "}, {**APPROVE, "name": ""}):
        assert client.resume_flow_run(run.id, run_input=unusable).status is SetStateStatus.REJECT
    assert client.resume_flow_run(run.id, run_input=APPROVE).status is SetStateStatus.ACCEPT
    run = work(client)
    assert (run.state_type, run.state_name) == (StateType.COMPLETED, "Approved")
    assert clients.volume.promoted(MODEL).holds(candidate.id)
    assert clients.volume.history(MODEL)[-1].reason == "approved by Ann: better answers"
    assert refusal(clients, candidate) is None


def test_a_declined_promotion_is_not_asked_about_again(
    deployed: None, pulled: Manifest, candidate: Manifest, clients: Clients, client: SyncPrefectClient
) -> None:
    request(candidate)
    run = work(client)
    client.resume_flow_run(run.id, run_input=DECLINE)
    run = work(client)
    assert run.state is not None
    assert (run.state_type, run.state_name) == (StateType.COMPLETED, "Declined")
    assert run.state.message == request(candidate) == "declined by Bob: the template is worse"
    assert clients.volume.promoted(MODEL).holds(pulled.id)
    assert only_run(client).id == run.id


def test_a_question_that_nobody_answers_counts_as_not_approved(
    deployed: None, candidate: Manifest, clients: Clients, client: SyncPrefectClient
) -> None:
    request(candidate)
    run = only_run(client)
    # What the server does at the time-out; a real one is waited for behind `torture`.
    client.set_flow_run_state(run.id, Failed(message="The flow was paused and never resumed."), force=True)
    line = flow(request)(candidate)  # as in a refresh: the answer is recorded by a step
    assert line.startswith(f"not answered: nobody answered the run approve {candidate.id.short}")
    assert only_run(client).state_name == NOT_ANSWERED
    refused = refusal(clients, candidate)
    assert refused is not None
    assert refused.line == line == request(candidate)


def test_an_answer_does_not_hold_for_what_was_promoted_since(
    pulled: Manifest, candidate: Manifest, clients: Clients
) -> None:
    require_unchanged(clients, candidate, DEFAULT_TOO, replaces=str(pulled.id))
    newer = add_revision(clients, pulled, "d")
    clients.volume.promote(newer.id, reason="by hand")
    with pytest.raises(PromotionConflict, match=f"was to replace {pulled.id}, and would replace {newer.id} now"):
        require_unchanged(clients, candidate, DEFAULT_TOO, replaces=str(pulled.id))
    clients.volume.promote(candidate.id, reason="by hand")
    require_unchanged(clients, candidate, DEFAULT_TOO, replaces=str(pulled.id))


def test_a_variant_is_asked_about_in_the_place_of_the_one_that_it_takes(
    deployed: None, pulled: Manifest, clients: Clients, client: SyncPrefectClient
) -> None:
    added = replace(pulled, revision=Revision("c" * 40), variant=Variant("Q4_K_M"))
    clients.volume.publish(added)
    scope = PromotionScope(default=False, instead_of=pulled.variant)
    request_approval(added, "", scope, timeout_s=3600, catalog="s3://bucket/catalog.yaml")
    asked = only_run(client).parameters
    assert (asked["replaces"], asked["default"], asked["instead_of"]) == (str(pulled.id), False, pulled.variant)
    assert asked["catalog"] == "s3://bucket/catalog.yaml"
    require_unchanged(clients, added, scope, replaces=asked["replaces"])
    newer = add_revision(clients, pulled, "d")
    clients.volume.promote(newer.id, reason="by hand")
    with pytest.raises(PromotionConflict, match=f"would replace {newer.id} now"):
        require_unchanged(clients, added, scope, replaces=asked["replaces"])


def test_a_request_without_the_deployment_says_what_to_do(candidate: Manifest, prefect_server: PrefectServer) -> None:
    with pytest.raises(OrchestratorUnavailable, match="approve-promotion/approve is not deployed"):
        request(candidate)


# What takes a worker, a browser, or time


@pytest.mark.torture
def test_a_run_that_nobody_resumes_is_ended_by_the_server(
    deployed: None, candidate: Manifest, clients: Clients, client: SyncPrefectClient
) -> None:
    request_approval(candidate, "", DEFAULT_TOO, timeout_s=1)
    work(client)
    wait_for(lambda: only_run(client).state_type is StateType.FAILED)
    assert flow(request)(candidate).startswith("not answered: ")
    assert only_run(client).state_name == NOT_ANSWERED


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_approvals_are_answered_in_the_user_interface_and_hold_no_process_and_no_slot(
    deployed: None,
    pulled: Manifest,
    clients: Clients,
    client: SyncPrefectClient,
    prefect_server: PrefectServer,
    tmp_path: Path,
    pytestconfig: pytest.Config,
) -> None:
    directory: Path | None = pytestconfig.getoption("--screenshots")
    declined, approved = add_revision(clients, pulled, "d"), add_revision(clients, pulled, "e")
    client.update_work_pool("paddock-io", WorkPoolUpdate(concurrency_limit=1))
    environment = {**os.environ, **prefect_server.environment, "PYTHONPATH": str(CHECKOUT)}
    request(declined)
    request(approved)
    runs = {run.parameters["revision"]: run.id for run in runs_of_approvals(client)}

    def are_suspended() -> bool:
        return all(client.read_flow_run(run).state_name == "Suspended" for run in runs.values())

    with start_worker("paddock-io", tmp_path / "worker", environment) as worker, open_browser(height=1000) as page:
        wait_for(are_suspended, limit_s=300)  # both at once, though the pool runs one at a time
        wait_for(lambda: not psutil.Process(worker.pid).children(recursive=True))
        for manifest, given, outcome in ((declined, DECLINE, "Declined"), (approved, APPROVE, "Approved")):
            run = runs[manifest.revision]
            page.goto(f"{prefect_server.ui}/v2/runs/flow-run/{run}", wait_until="commit")
            answer_in(page, manifest, given, directory)
            wait_for(partial(is_named, client, run, outcome), limit_s=300)
    delete_workers(prefect_server.url)
    assert clients.volume.promoted(MODEL).holds(approved.id)
    assert clients.volume.history(MODEL)[-1].reason == "approved by Ann: better answers"


def is_named(client: SyncPrefectClient, run: UUID, name: str) -> bool:
    return client.read_flow_run(run).state_name == name


def answer_in(page: Page, manifest: Manifest, answer: dict[str, str], screenshots: Path | None) -> None:
    """Open the form from the page of a run, read the question, and answer it."""
    page.get_by_role("button", name="Open menu").click()
    page.get_by_role("menuitem", name="Resume").click()
    form = page.get_by_role("dialog", name="Resume Flow Run")
    form.get_by_text(f"Promote {manifest.id.short} in place of ").wait_for()
    form.get_by_role("button", name="Select Decision").click()
    page.get_by_role("option", name=answer["decision"]).click()
    form.get_by_role("textbox", name="Reason").fill(answer["reason"])
    form.get_by_role("textbox", name="Name").fill(answer["name"])
    if screenshots is not None:
        save_screenshot(page, screenshots / "approval.png")
    form.get_by_role("button", name="Resume", exact=True).click()
