"""The form of a deployment in Prefect's user interface, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any
from uuid import UUID

import pytest
from playwright.sync_api import expect
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId

from flows.check_server import DEPLOYMENTS
from flows.onboard import onboard_model
from infra.local.hub import HubService
from infra.local.prefect_server import PrefectServer
from paddock.lifecycle.clients import Clients
from tests.support.browser import open_browser

NAMES = tuple(DEPLOYMENTS.values())


def flow_of(entrypoint: str) -> Flow[..., Any]:
    module, _, function = entrypoint.rpartition(".")
    found = getattr(import_module(module), function)
    assert isinstance(found, Flow)
    return found


def numbers(schema: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """(a parameter's description, its bounds) of each number with bounds."""
    for shown in schema["properties"].values():
        for kind in [shown, *shown.get("anyOf", [])]:
            bounds = [kind[name] for name in ("minimum", "maximum", "exclusiveMaximum") if name in kind]
            # Zero and what no machine reaches need no words.
            telling = [
                f"{bound:g}" if isinstance(bound, float) else str(bound) for bound in bounds if 0 < bound < 2**40
            ]
            if telling:
                yield shown["description"], telling


@pytest.mark.parametrize("entrypoint", NAMES)
def test_each_parameter_is_described_with_its_bounds(entrypoint: str) -> None:
    """Prefect's form shows a description, and says of a value out of bounds no more than that it is not valid."""
    schema = flow_of(entrypoint).parameters.model_dump_for_openapi()
    assert all(shown.get("description") for shown in schema["properties"].values())
    for description, bounds in numbers(schema):
        assert all(re.search(rf"\b{bound}\b", description) for bound in bounds), (description, bounds)


def test_the_form_refuses_in_a_sentence_and_a_failed_run_says_why_on_its_first_page(
    clients: Clients, hub: HubService, client: SyncPrefectClient, prefect_server: PrefectServer
) -> None:
    schema = onboard_model.parameters.model_dump_for_openapi()
    flow_id = client.create_flow(onboard_model)
    deployment = client.create_deployment(
        flow_id, "a-form", parameter_openapi_schema=schema, enforce_parameter_schema=True
    )
    failed = onboard_model("nobody/nothing", return_state=True).state_details.flow_run_id
    with open_browser(width=1300, height=1000) as page:
        page.set_default_timeout(30_000)
        page.goto(f"{prefect_server.ui}/deployments/deployment/{deployment}/run")
        expect(page.get_by_text("Context that must fit, 256 to 1048576 tokens.")).to_be_visible()
        model = page.locator("textarea").first
        model.fill("a b")
        page.get_by_text("Submit").click()
        expect(page.get_by_text("Validation failed for field 'model'").first).to_be_visible()
        assert client.read_flow_runs(deployment_filter=only(deployment)) == []
        model.fill("org/name")
        page.get_by_text("Submit").click()
        expect(page.get_by_text("scheduled to start now").first).to_be_visible()
        (run,) = client.read_flow_runs(deployment_filter=only(deployment))
        assert (run.parameters["model"], run.parameters["context_tokens"]) == ("org/name", None)

        page.goto(f"{prefect_server.ui}/runs/flow-run/{failed}")
        expect(page.get_by_text("nobody/nothing is not on").first).to_be_visible()
        expect(page.get_by_text("check the name, and set HF_TOKEN if it is private").first).to_be_visible()
    client.delete_deployment(deployment)


def only(deployment: UUID) -> DeploymentFilter:
    return DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
