"""`paddock doctor` on a Prefect server: each thing that is wrong is named, and its cure works."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.check_server import DEPLOYMENTS, check_prefect
from infra.bootstrap import POOLS, create_pools, create_queues
from infra.deployments import deploy_all
from infra.local.environment import inherited
from infra.local.prefect_server import PrefectServer
from infra.local.state import CHECKOUT
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.upkeep.doctor import CheckResult
from tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def deployed(prefect_server: PrefectServer, _recorded: None) -> Iterator[None]:
    """The pools, queues and deployments of the bootstrap."""
    with pytest.MonkeyPatch.context() as patch, get_client(sync_client=True) as client:
        for name, value in prefect_server.environment.items():
            patch.setenv(name, value)
        lines = [*create_pools(client), *create_queues(client), *deploy_all(client, CHECKOUT)]
        assert len(lines) == 2 * len(POOLS) + len(DEPLOYMENTS)
        yield
        for automation in client.read_automations():
            client.delete_automation(automation.id)
        for one in client.read_deployments():
            client.delete_deployment(one.id)
        for pool in POOLS:
            client.delete_work_pool(pool)


@dataclass(frozen=True)
class Broken:
    """Something that is wrong on a Prefect server: the request that does it, and the check that finds it."""

    method: str
    path: str
    body: dict[str, Any]
    check: str
    message: str


BROKEN = {
    "a paused pool": Broken("PATCH", "/work_pools/paddock-io", {"is_paused": True}, "paddock-io", "it is paused"),
    "a pool that lets nothing start": Broken(
        "PATCH", "/work_pools/paddock-serve", {"concurrency_limit": 0}, "paddock-serve", "its limit is 0"
    ),
    "a GPU pool without a limit": Broken(
        "PATCH", "/work_pools/paddock-gpu", {"concurrency_limit": None}, "paddock-gpu", "it has no limit"
    ),
    "a paused queue": Broken(
        "PATCH", "/work_pools/paddock-gpu/queues/default", {"is_paused": True}, "paddock-gpu", "its queue default is"
    ),
    "a pool that is gone": Broken("DELETE", "/work_pools/paddock-gpu", {}, "paddock-gpu", "there is no such work pool"),
    "a deployment of a directory": Broken(
        "PATCH",
        "/deployments/{restore-model/restore}",
        {"pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": "/home"}}]},
        "deployments",
        "restore-model/restore",
    ),
    "a deployment of another version": Broken(
        "PATCH", "/deployments/{cache-model/cache}", {"entrypoint": "flows.cache.old"}, "deployments", "cache-model"
    ),
    "a deployment that is gone": Broken(
        "DELETE", "/deployments/{onboard-model/onboard}", {}, "deployments", "not deployed: onboard-model/onboard"
    ),
    "a night that is switched off": Broken(
        "PATCH", "/deployments/{refresh-catalog/nightly}", {"paused": True}, "schedules", "refresh-catalog/nightly"
    ),
}


def states_of_checks(clients: Clients) -> dict[str, CheckResult]:
    """The results by name, without that of the scheduler: after a deployment it takes up to a minute."""
    found = {check.name.removeprefix("Prefect: "): check for check in check_prefect(clients)}
    found.pop("scheduler", None)
    return found


@pytest.mark.torture  # the server's scheduler looks once a minute
def test_schedules_without_a_planned_run_are_named_until_the_scheduler_planned_one(
    clients: Clients, deployed: None, client: SyncPrefectClient
) -> None:
    def scheduler() -> list[str]:
        return [check.message for check in check_prefect(clients) if check.name == "Prefect: scheduler"]

    wait_for(lambda: scheduler() == [], limit_s=120, every_s=2)
    nightly = client.read_deployment_by_name("refresh-catalog/nightly")
    planned = client.read_flow_runs(deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[nightly.id])))
    assert planned
    for run in planned:
        client.delete_flow_run(run.id)
    assert scheduler() == ["no run is planned of refresh-catalog/nightly, whose schedule is on"]
    wait_for(lambda: scheduler() == [], limit_s=120, every_s=2)


def test_the_doctor_knows_all_deployments() -> None:
    deployments = yaml.safe_load((CHECKOUT / "prefect.yaml").read_text())["deployments"]
    assert {one["entrypoint"] for one in deployments} == set(DEPLOYMENTS.values())
    flows = {one["name"]: one["entrypoint"].rpartition(".")[2].replace("_", "-") for one in deployments}
    assert set(DEPLOYMENTS) == {f"{flow}/{name}" for name, flow in flows.items()}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "a paused pool" else pytest.mark.torture) for name in BROKEN]
)
def test_the_doctor_names_what_is_wrong_on_the_server_and_its_cure_works(
    clients: Clients, deployed: None, prefect_server: PrefectServer, name: str
) -> None:
    broken = BROKEN[name]
    sound = states_of_checks(clients)
    assert sound["Prefect"].ok
    assert sound["deployments"].message == f"{len(DEPLOYMENTS)}, of this version"
    assert {pool: sound[pool].state for pool in POOLS} == {
        "paddock-io": "failed",
        "paddock-gpu": "warning",
        "paddock-serve": "warning",
    }
    assert {sound[pool].message for pool in POOLS} == {"no worker is online, and its runs wait"}

    def address(match: re.Match[str]) -> str:
        found = httpx.get(f"{prefect_server.url}/deployments/name/{match[1]}", trust_env=False)
        return str(found.raise_for_status().json()["id"])

    url = prefect_server.url + re.sub(r"\{(.*)\}", address, broken.path)
    httpx.request(broken.method, url, json=broken.body, trust_env=False).raise_for_status()
    found = states_of_checks(clients)[broken.check]
    assert not found.ok
    assert broken.message in found.message

    if found.fix is not None and name.endswith("that is gone"):
        found.fix()
    elif "`" in found.cure:
        program, *arguments = shlex.split(found.cure.split("`")[1])
        command = [sys.executable, "-m", *(arguments[1:] if program == "python" else [program, *arguments])]
        environment = {**inherited(), **prefect_server.environment}
        subprocess.run(command, cwd=CHECKOUT, env=environment, check=True, capture_output=True)
    else:  # by hand, in the UI
        httpx.patch(url, json={"paused": False}, trust_env=False).raise_for_status()
    assert {one: check.message for one, check in states_of_checks(clients).items()} == {
        one: check.message for one, check in sound.items()
    }


def test_the_doctor_tells_a_server_that_does_not_answer(clients: Clients) -> None:
    with temporary_settings({PREFECT_API_URL: "http://user:canary@127.0.0.1:9/api"}):
        (result,) = check_prefect(clients)
    assert (result.name, result.state) == ("Prefect", "failed")
    assert result.message.startswith("http://127.0.0.1:9 does not answer correctly: ")
    assert "canary" not in f"{result}"
