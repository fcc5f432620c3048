"""Deployments run on any worker that has the package: they store no directory, and a served model blocks no other run.

The deployments come from a copy of the checkout that is removed afterwards. The workers have Paddock from a wheel, in a
virtual environment of their own, and start in another directory.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from zipfile import ZipFile

import httpx
import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.states import Cancelling

from infra.bootstrap import POOLS, is_change
from infra.local.environment import inherited
from infra.local.hub import HubService
from infra.local.ports import free_ports
from infra.local.prefect_server import PrefectServer
from infra.local.s3 import S3Server
from infra.local.state import CHECKOUT
from infra.local.workers import delete_workers, start_worker
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.clients import Clients
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
    assert schedule.schedule == CronSchedule(cron=Settings.maintenance_cron, timezone="Etc/UTC")
    nightly = found["refresh-catalog/nightly"]
    (schedule,) = nightly.schedules
    assert schedule.active
    assert schedule.schedule == CronSchedule(cron=Settings.refresh_cron, timezone="Etc/UTC")
    assert nightly.global_concurrency_limit is None, "a run that is stuck in Pending would hold its slot"
    limits = {name: one.global_concurrency_limit for name, one in found.items() if one.global_concurrency_limit}
    assert limits.keys() == {"maintain-volume/weekly"}
    everywhere = {one.name for one in client.read_global_concurrency_limits(limit=200)}
    assert everywhere == {one.name for one in limits.values()}
    stored = json.dumps(httpx.post(f"{prefect_server.url}/deployments/filter", json={}, trust_env=False).json())
    for name in (COPIED, str(CHECKOUT), sys.prefix):
        assert name not in stored


@pytest.mark.torture
def test_a_bootstrap_again_changes_nothing_and_says_so(
    deployed: None, prefect_server: PrefectServer, client: SyncPrefectClient
) -> None:
    def bootstrap() -> list[str]:
        environment = {**inherited(), **prefect_server.environment}
        command = [sys.executable, "-m", "infra.bootstrap"]
        done = subprocess.run(command, cwd=CHECKOUT, env=environment, check=True, capture_output=True, text=True)
        return done.stdout.splitlines()

    lines = bootstrap()
    assert lines[-1] == "Nothing was changed"
    assert set(POOL_OF) == {line.partition(": ")[0] for line in lines} & set(POOL_OF)

    nightly = client.read_deployment_by_name("refresh-catalog/nightly")
    (schedule,) = nightly.schedules
    client.update_deployment_schedule(nightly.id, schedule.id, active=False)
    client.update_deployment(nightly.id, DeploymentUpdate(description="another one"))
    lines = bootstrap()
    assert "refresh-catalog/nightly: updated" in lines
    assert sum(is_change(line) for line in lines) == 1
    nightly = client.read_deployment_by_name("refresh-catalog/nightly")
    assert [schedule.active for schedule in nightly.schedules] == [False]
    client.update_deployment_schedule(nightly.id, schedule.id, active=True)


def test_scheduled_runs_wait_behind_those_of_people(deployed: None, client: SyncPrefectClient) -> None:
    queues = {name: client.read_deployment_by_name(name).work_queue_name for name in POOL_OF}
    scheduled = {"maintain-volume/weekly", "refresh-catalog/nightly"}
    assert queues == {name: "night" if name in scheduled else "default" for name in POOL_OF}


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
