"""Pages of an onboarding of the real model, in both of Prefect's user interfaces: no table of an artifact runs off its
page. With `--screenshots DIR`, the form, a failed run and the artifacts are written there as the
documentation shows them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact

from flows.onboard import onboard_model
from flows.run_local import run_local
from infra.local.demo import MODEL, create_demo_repositories
from infra.local.hub import HubService
from infra.local.prefect_server import PrefectServer
from paddock.lifecycle.clients import Clients
from tests.flows.test_onboard import KINDS
from tests.support.browser import open_browser, save_screenshot, wide_tables
from tests.support.flow_runs import newest

SEEN = {
    "preflight",
    "files",
    "download",
    "findings",
    "chat",
    "expectations",
    "memory",
    "copy",
    "benchmark",
    "promotion",
}
INTERFACES = ("", "/v2")
ABSENT = "paddock-demo/No-Such-Model-GGUF"


@contextmanager
def page_of(prefect_server: PrefectServer, path: str) -> Iterator[Page]:
    with open_browser(width=1280, height=1000) as page:
        page.goto(f"{prefect_server.ui}{path}", wait_until="networkidle")
        yield page


def artifacts_of(client: SyncPrefectClient) -> dict[str, Artifact]:
    """Those of the newest onboarding, by their kinds."""
    run = newest(client, onboard_model)
    found = client.read_artifacts(
        artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id])), limit=200
    )
    return {str(one.key).split("-")[0]: one for one in found}


@pytest.mark.torture
@pytest.mark.timeout(1200)
def test_no_table_of_an_onboarding_runs_off_its_page(
    hub: HubService,
    clients: Clients,
    client: SyncPrefectClient,
    prefect_server: PrefectServer,
    demo_cache: Path,
    pytestconfig: pytest.Config,
) -> None:
    directory: Path | None = pytestconfig.getoption("--screenshots")
    create_demo_repositories(hub.hub, cache=demo_cache)
    run_local(onboard_model, model=MODEL)
    artifacts = artifacts_of(client)
    assert artifacts.keys() == {*KINDS}
    for interface in INTERFACES:
        for kind, artifact in artifacts.items():
            with page_of(prefect_server, f"{interface}/artifacts/artifact/{artifact.id}") as page:
                expect(page.get_by_text(str(artifact.description)[:20]).first).to_be_visible()
                assert (kind, wide_tables(page)) == (kind, [])
    with page_of(prefect_server, "/artifacts") as page:
        expect(page.get_by_text("prefill ").first).to_be_visible()
        if directory:
            save_screenshot(page, directory / "artifacts.png")


@pytest.mark.torture
@pytest.mark.usefixtures("clients")
def test_the_form_filled_in_and_the_reason_of_a_failed_run(
    client: SyncPrefectClient, prefect_server: PrefectServer, pytestconfig: pytest.Config
) -> None:
    directory: Path | None = pytestconfig.getoption("--screenshots")
    schema = onboard_model.parameters.model_dump_for_openapi()
    deployment = client.create_deployment(
        client.create_flow(onboard_model), "onboard", parameter_openapi_schema=schema, enforce_parameter_schema=True
    )
    with page_of(prefect_server, f"/deployments/deployment/{deployment}/run") as page:
        page.locator("textarea").first.fill("org/name-GGUF:Q4_K_M")
        expect(page.get_by_text("Context that must fit").first).to_be_visible()
        if directory:
            save_screenshot(page, directory / "form.png")
    client.delete_deployment(deployment)
    failed = onboard_model(ABSENT, return_state=True).state_details.flow_run_id
    with page_of(prefect_server, f"/runs/flow-run/{failed}") as page:
        expect(page.get_by_text(f"{ABSENT} is not on").first).to_be_visible()
        if directory:
            save_screenshot(page, directory / "failed-run.png")
