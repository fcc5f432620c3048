"""Deployments run on any worker that has the package: they store no directory, and a served model blocks no other run.

The deployments come from a copy of the checkout that is removed afterwards. The workers have Paddock from a wheel, in a
virtual environment of their own, and start in another directory.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import httpx
import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling

from flows.check_server import DEPLOYMENTS, check_prefect
from infra.bootstrap import POOLS
from infra.local.environment import inherited
from infra.local.hub import HubService
from infra.local.ports import free_ports
from infra.local.prefect_server import PrefectServer
from infra.local.s3 import S3Server
from infra.local.state import CHECKOUT
from infra.local.workers import delete_workers, start_worker
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.upkeep.doctor import CheckResult
from paddock.model.reference import Reference
from paddock.settings import Settings
from tests.flows.test_onboard import roomy
from tests.support.engine import real_model
from tests.support.serving import REAL_MODEL_ID, REAL_MODEL_NAME, has_restarted
from tests.support.tiny_hub import MODEL, NAME, use_s3
from tests.support.waiting import wait_for

POOL_OF = {
    "onboard-model/onboard": "paddock-io",
    "acquire-model/acquire": "paddock-io",
    "validate-model/validate": "paddock-io",
    "cache-model/cache": "paddock-io",
    "restore-model/restore": "paddock-io",
    "promote-model/promote": "paddock-io",
    "rollback-model/rollback": "paddock-io",
    "benchmark-model/benchmark-gpu": "paddock-gpu",
    "compare-model/compare-gpu": "paddock-gpu",
    "serve-model/serve-gpu": "paddock-serve",
    "approve-promotion/approve": "paddock-io",
    "maintain-volume/weekly": "paddock-io",
    "refresh-catalog/nightly": "paddock-io",
}
COPIED = "a-checkout-that-goes"
RUN_S = 240.0


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A copy of the checkout, and the package's wheel built from it."""
    home = tmp_path_factory.mktemp("deployments")
    copy = home / COPIED
    for name in ("paddock", "tasks", "flows", "infra"):
        shutil.copytree(CHECKOUT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("prefect.yaml", "pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(CHECKOUT / name, copy / name)
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(home)], cwd=copy, stdout=subprocess.DEVNULL, check=True)
    (built,) = home.glob("*.whl")
    return copy, built


@pytest.fixture(scope="module")
def deployed(wheel: tuple[Path, Path], prefect_server: PrefectServer, _recorded: None) -> Iterator[None]:
    """The pools and deployments, made by the bootstrap of a checkout that is gone by now."""
    copy, _ = wheel
    environment = without_checkout({**inherited(), **prefect_server.environment})
    done = subprocess.run(
        [sys.executable, "-m", "infra.bootstrap"],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(copy)
    yield
    with get_client(sync_client=True) as client:
        for automation in client.read_automations():
            client.delete_automation(automation.id)
        for one in client.read_deployments():
            client.delete_deployment(one.id)
        for pool in POOLS:
            client.delete_work_pool(pool)


@pytest.fixture(scope="module")
def python(wheel: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of another virtual environment: Paddock from the wheel, its dependencies from this one."""
    home = tmp_path_factory.mktemp("elsewhere") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    (packages,) = home.glob("lib/python*/site-packages")
    with ZipFile(wheel[1]) as files:  # what pip would do, in 2 s
        files.extractall(packages)
    # Only a directory on the path: the .pth files in it, such as that of our editable installation, are not read.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return home / "bin" / "python"


def without_checkout(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name != "PYTHONPATH"}


@contextmanager
def working(python: Path, server: PrefectServer, directory: Path, *pools: str) -> Iterator[None]:
    """A worker of each pool, with the environment of this moment."""
    environment = without_checkout({**os.environ, **server.environment})
    with ExitStack() as workers:
        for pool in pools:
            workers.enter_context(start_worker(pool, directory, environment, python=python))
        yield
    delete_workers(server.url)


def start(client: SyncPrefectClient, deployment: str, **parameters: object) -> FlowRun:
    found = client.read_deployment_by_name(deployment)
    return client.create_flow_run_from_deployment(found.id, parameters=parameters)


def completes(client: SyncPrefectClient, deployment: str, **parameters: object) -> None:
    run = start(client, deployment, **parameters)
    end = time.monotonic() + RUN_S
    while not (state := client.read_flow_run(run.id).state) or not state.is_final():
        assert time.monotonic() < end, f"{deployment}: {state}"
        time.sleep(0.2)
    assert state.type is StateType.COMPLETED, f"{deployment}: {state.message}"


def test_prefect_yaml_has_these_deployments() -> None:
    deployments = yaml.safe_load((CHECKOUT / "prefect.yaml").read_text())["deployments"]
    flows = [one["entrypoint"].rpartition(".")[2].replace("_", "-") for one in deployments]
    assert {f"{flow}/{one['name']}" for flow, one in zip(flows, deployments, strict=True)} == set(POOL_OF)


def test_a_deployment_stores_its_pool_and_a_module_and_no_directory(
    deployed: None, prefect_server: PrefectServer, client: SyncPrefectClient
) -> None:
    flows = {flow.id: flow.name for flow in client.read_flows()}
    found = {f"{flows[one.flow_id]}/{one.name}": one for one in client.read_deployments()}
    assert {name: one.work_pool_name for name, one in found.items()} == POOL_OF
    for one in found.values():
        assert (one.path, one.pull_steps) == (None, [])
        assert one.entrypoint is not None
        assert one.entrypoint.startswith("flows.")
        assert "/" not in one.entrypoint
    (schedule,) = found["maintain-volume/weekly"].schedules
    assert schedule.active
    assert schedule.schedule == CronSchedule(cron=Settings.model_fields["maintenance_cron"].default, timezone="Etc/UTC")
    nightly = found["refresh-catalog/nightly"]
    (schedule,) = nightly.schedules
    assert schedule.active
    assert schedule.schedule == CronSchedule(cron=Settings.model_fields["refresh_cron"].default, timezone="Etc/UTC")
    assert nightly.global_concurrency_limit is None, "a run that is stuck in Pending would hold its slot"
    stored = json.dumps(httpx.post(f"{prefect_server.url}/deployments/filter", json={}, trust_env=False).json())
    for name in (COPIED, str(CHECKOUT), sys.prefix):
        assert name not in stored


def test_the_schedules_make_runs(deployed: None, client: SyncPrefectClient) -> None:
    """Prefect's scheduler plans runs every few seconds; where it fails, only the server's log says so."""
    for name in ("maintain-volume/weekly", "refresh-catalog/nightly"):
        planned = DeploymentFilter(id=DeploymentFilterId(any_=[client.read_deployment_by_name(name).id]))
        wait_for(lambda planned=planned: client.read_flow_runs(deployment_filter=planned), every_s=0.5)  # type: ignore[misc]


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
        "DELETE", "/deployments/{cache-model/cache}", {}, "deployments", "not deployed: cache-model/cache"
    ),
    "a night that is switched off": Broken(
        "PATCH", "/deployments/{refresh-catalog/nightly}", {"paused": True}, "schedules", "refresh-catalog/nightly"
    ),
}


def states_of_checks(clients: Clients) -> dict[str, CheckResult]:
    return {check.name.removeprefix("Prefect: "): check for check in check_prefect(clients)}


def test_the_doctor_knows_all_deployments() -> None:
    deployments = yaml.safe_load((CHECKOUT / "prefect.yaml").read_text())["deployments"]
    assert {one["entrypoint"] for one in deployments} == set(DEPLOYMENTS.values())
    assert set(DEPLOYMENTS) == set(POOL_OF)


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


def test_another_installation_has_its_own_package(python: Path, tmp_path: Path) -> None:
    places = "import flows, paddock, tasks; print(flows.__file__, paddock.__file__, tasks.__file__)"
    completed = subprocess.run(
        [python, "-c", places],
        cwd=tmp_path,
        env=without_checkout(dict(os.environ)),
        capture_output=True,
        text=True,
        check=True,
    )
    for place in completed.stdout.split():
        assert Path(place).is_relative_to(python.parents[1])


# In CI, tests/infra/test_stack.py runs a deployment on a worker, and the tests above are of what differs elsewhere.
@pytest.mark.torture
def test_a_deployment_runs_where_the_package_is_installed_elsewhere(
    clients: Clients,
    client: SyncPrefectClient,
    prefect_server: PrefectServer,
    deployed: None,
    python: Path,
    tmp_path: Path,
) -> None:
    with working(python, prefect_server, tmp_path / "elsewhere", "paddock-io"):
        completes(client, "acquire-model/acquire", model=NAME, context_tokens=256)
    assert len(clients.volume.snapshots(MODEL)) == 1


@pytest.mark.torture
@pytest.mark.timeout(1800)
def test_every_deployment_runs_where_the_package_is_installed_elsewhere(
    clients: Clients,
    hub: HubService,
    s3: S3Server,
    client: SyncPrefectClient,
    prefect_server: PrefectServer,
    deployed: None,
    python: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_s3(monkeypatch, s3, "deployments")
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text("models: []\n")
    first = hub.repository(NAME).commit({"tiny-Q8_0.gguf": roomy("first")})
    hub.repository(REAL_MODEL_ID).commit({"smollm2-Q4_1.gguf": real_model(), "config.json": b"{}"})
    pull(clients, Reference(REAL_MODEL_NAME))
    with working(python, prefect_server, tmp_path / "elsewhere", *POOLS):
        completes(client, "acquire-model/acquire", model=NAME)
        completes(client, "validate-model/validate", model=NAME, context_tokens=512)
        completes(client, "cache-model/cache", model=NAME)
        completes(client, "benchmark-model/benchmark-gpu", model=NAME, context_tokens=512)
        completes(client, "promote-model/promote", model=NAME)
        completes(client, "restore-model/restore", model=NAME, revision=first)
        second = hub.repository(NAME).commit({"tiny-Q8_0.gguf": roomy("second")})
        completes(client, "onboard-model/onboard", model=NAME, context_tokens=512)
        assert clients.volume.promoted(MODEL).revisions == {"Q8_0": second}
        against = f"{NAME}:Q8_0@{first}"
        completes(client, "compare-model/compare-gpu", model=NAME, against=against, context_tokens=512)
        completes(client, "rollback-model/rollback", model=NAME)
        completes(client, "maintain-volume/weekly")
        completes(client, "refresh-catalog/nightly", catalog=str(catalog))
        assert clients.volume.promoted(MODEL).revisions == {"Q8_0": first}
        with served(client):
            pass


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_an_onboarding_completes_while_a_model_is_served(
    clients: Clients,
    hub: HubService,
    client: SyncPrefectClient,
    prefect_server: PrefectServer,
    deployed: None,
    python: Path,
    tmp_path: Path,
) -> None:
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": roomy("while one serves")})
    hub.repository(REAL_MODEL_ID).commit({"smollm2-Q4_1.gguf": real_model(), "config.json": b"{}"})
    pull(clients, Reference(REAL_MODEL_NAME))
    on_gpu = WorkPoolFilter(name=WorkPoolFilterName(any_=["paddock-gpu"]))
    before = {run.id for run in client.read_flow_runs(work_pool_filter=on_gpu)}
    with working(python, prefect_server, tmp_path / "elsewhere", *POOLS), served(client) as serving:
        completes(client, "onboard-model/onboard", model=NAME, context_tokens=512)
        assert client.read_flow_run(serving.id).state_type is StateType.RUNNING
    measured = [run for run in client.read_flow_runs(work_pool_filter=on_gpu) if run.id not in before]
    assert [run.name for run in measured] == [f"benchmark {NAME}:Q8_0"]


@contextmanager
def served(client: SyncPrefectClient) -> Iterator[FlowRun]:
    """The real model behind an address, until the block ends and its run is cancelled."""
    (port,) = free_ports(1)
    run = start(client, "serve-model/serve-gpu", model=REAL_MODEL_ID, context_tokens=512, port=port)
    wait_for(partial(has_restarted, f"http://127.0.0.1:{port}", 0), limit_s=RUN_S)
    yield run
    client.set_flow_run_state(run.id, Cancelling())
    wait_for(lambda: client.read_flow_run(run.id).state_type is StateType.CANCELLED, limit_s=60)
