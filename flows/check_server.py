"""Check the Prefect server for `paddock doctor`: pools, limits, queues, workers, deployments and runs that wait."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import httpx
import prefect
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType, WorkPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings

from flows.check_runs import check_runs
from flows.run_local import server_address
from paddock.errors import BadSetting, OrchestratorUnavailable
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.upkeep.doctor import CheckResult
from paddock.settings import StoredSecret, missing_secrets
from tasks.gpu_pool import GPU_POOL
from tasks.secret_blocks import BLOCKS, read_secrets

_ROOT: Final = Path(__file__).resolve().parents[1]
POOLS: Final = ("paddock-io", GPU_POOL, "paddock-serve")
DEPLOYMENTS: Final[Mapping[str, str]] = {
    "onboard-model/onboard": "flows.onboard.onboard_model",
    "acquire-model/acquire": "flows.acquire.acquire_model",
    "validate-model/validate": "flows.validate.validate_model",
    "cache-model/cache": "flows.cache.cache_model",
    "restore-model/restore": "flows.restore.restore_model",
    "benchmark-model/benchmark-gpu": "flows.benchmark.benchmark_model",
    "compare-model/compare-gpu": "flows.compare.compare_model",
    "serve-model/serve-gpu": "flows.serve.serve_model",
    "promote-model/promote": "flows.promote.promote_model",
    "rollback-model/rollback": "flows.promote.rollback_model",
    "approve-promotion/approve": "flows.approve.approve_promotion",
    "maintain-volume/weekly": "flows.maintain.maintain_volume",
    "refresh-catalog/nightly": "flows.refresh.refresh_catalog",
}
"""The deployments of prefect.yaml, and their entrypoints."""
MORTAL: Final = sorted({name.partition("/")[0] for name in DEPLOYMENTS} - {"approve-promotion"} | {"refresh-entry"})
"""The flows whose runs have a process until they end."""
_NO_ANSWER: Final = (httpx.HTTPError, httpx.InvalidURL, OSError, RuntimeError, ValueError)
"""Raised by Prefect's client for a server that does not answer, or not correctly."""
_BOOTSTRAP: Final = "`python -m infra.bootstrap` in a checkout of this version"


def check_prefect(clients: Clients) -> Sequence[CheckResult]:  # noqa: ARG001 - the signature of a check
    """The configured Prefect server answers, and has the pools, limits, workers and deployments of this version."""
    server = server_address()
    try:
        with get_client(sync_client=True) as client:
            problem = client.api_healthcheck()
            if problem is not None:
                raise problem
            checks = (_secrets, _pools, _deployments, partial(check_runs, flows=MORTAL))
            return [_version(client, server), *(result for check in checks for result in check(client))]
    except httpx.HTTPStatusError as error:
        return [_refused(server, f"status {error.response.status_code}")]
    except _NO_ANSWER as error:
        return [_refused(server, type(error).__name__)]


def stored_secrets() -> Mapping[str, StoredSecret]:
    """The secrets that a run on this machine takes from blocks of the server. None where it does not answer, or where a
    block cannot be used, which `check_prefect` reports."""
    with suppress(*_NO_ANSWER), get_client(sync_client=True) as client:
        return read_secrets(client, missing_secrets())
    return {}


def _fix() -> Callable[[], None] | None:
    """The bootstrap, where this is a checkout: it changes nothing that an operator set."""
    return _bootstrap if find_spec("infra") else None


def _bootstrap() -> None:
    command = [sys.executable, "-m", "infra.bootstrap"]
    server = get_current_settings().to_environment_variables(exclude_unset=True, include_secrets=True)
    done = subprocess.run(command, cwd=_ROOT, env={**os.environ, **server}, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().rpartition("\n")[2]
        raise OrchestratorUnavailable(f"the bootstrap failed: {last}", cure=f"run {_BOOTSTRAP}")


def _refused(server: str, reason: str) -> CheckResult:
    cure = "start it, correct PREFECT_API_URL and the credentials, or unset it to work without Prefect"
    return CheckResult("Prefect", False, f"{server} does not answer correctly: {reason}", cure)


def _version(client: SyncPrefectClient, server: str) -> CheckResult:
    theirs, ours = client.api_version(), prefect.__version__
    if theirs.split(".")[:2] == ours.split(".")[:2]:
        return CheckResult("Prefect", True, f"{server} answers, version {theirs}")
    message = f"{server} has version {theirs}, and here is {ours}"
    return CheckResult("Prefect", False, message, "install the same minor version on both", needed=False)


def _secrets(client: SyncPrefectClient) -> Iterator[CheckResult]:
    try:
        found = read_secrets(client, missing_secrets())
    except BadSetting as error:
        yield CheckResult("Prefect: secrets", False, error.message, error.cure or "")
        return
    if found:
        message = "; ".join(f"{variable} is in the block {BLOCKS[variable]}" for variable in found)
        yield CheckResult("Prefect: secrets", True, message)


def _pools(client: SyncPrefectClient) -> Iterator[CheckResult]:
    for name in POOLS:
        try:
            pool = client.read_work_pool(name)
        except ObjectNotFound:
            message, cure = "there is no such work pool", f"{_BOOTSTRAP} makes it"
            yield CheckResult(f"Prefect: {name}", False, message, cure, fix=_fix())
        else:
            yield _pool(client, pool)


def _pool(client: SyncPrefectClient, pool: WorkPool) -> CheckResult:
    name = f"Prefect: {pool.name}"
    queues = client.read_work_queues(work_pool_name=pool.name)
    paused = [queue.name for queue in queues if queue.is_paused]
    workers = client.read_workers_for_work_pool(pool.name)
    online = sum(worker.status == "ONLINE" for worker in workers)
    if pool.is_paused:
        return CheckResult(name, False, "it is paused, and its runs wait", f"`prefect work-pool resume {pool.name}`")
    if paused:
        cure = f"`prefect work-queue resume {paused[0]} --pool {pool.name}`"
        return CheckResult(name, False, f"its queue {paused[0]} is paused, and runs wait there", cure)
    if pool.name == GPU_POOL and pool.concurrency_limit is None:
        message = "it has no limit: two runs would share a GPU, and each would measure the other"
        cure = f"`prefect work-pool set-concurrency-limit {GPU_POOL} 1`"
        return CheckResult(name, False, message, cure, fix=_fix())
    if pool.concurrency_limit == 0:
        cure = f"`prefect work-pool clear-concurrency-limit {pool.name}`, or set one above 0"
        return CheckResult(name, False, "its limit is 0, and no run of it ever starts", cure)
    if not online:
        cure = f"`prefect worker start --pool {pool.name} --type process` where its runs belong"
        return CheckResult(name, False, "no worker is online, and its runs wait", cure, needed=pool.name == POOLS[0])
    limit = "" if pool.concurrency_limit is None else f", {pool.concurrency_limit} at once"
    return CheckResult(name, True, f"{online} worker{'s' * (online != 1)} online{limit}")


def _deployments(client: SyncPrefectClient) -> Iterator[CheckResult]:
    missing, stale, off, idle = list[str](), list[str](), list[str](), list[str]()
    for name, entrypoint in DEPLOYMENTS.items():
        try:
            found = client.read_deployment_by_name(name)
        except ObjectNotFound:
            missing.append(name)
            continue
        if _is_stale(found, entrypoint):
            stale.append(name)
        if found.paused or (found.schedules and not any(schedule.active for schedule in found.schedules)):
            off.append(name)
        elif found.schedules and not _next_runs(client, found):
            idle.append(name)
    for names, what in ((missing, "not deployed"), (stale, "of another version of Paddock, or of a checkout")):
        if names:
            message = f"{what}: {', '.join(names)}"
            yield CheckResult("Prefect: deployments", False, message, _BOOTSTRAP, fix=_fix())
    if not missing and not stale:
        yield CheckResult("Prefect: deployments", True, f"{len(DEPLOYMENTS)}, of this version")
    if off:
        cure = "switch them on in the UI, under Deployments"
        yield CheckResult("Prefect: schedules", False, f"switched off: {', '.join(off)}", cure, needed=False)
    if idle:
        message = f"no run is planned of {', '.join(idle)}, whose schedule is on"
        cure = "look for errors of the scheduler in the server's log; after a deployment it takes a minute"
        yield CheckResult("Prefect: scheduler", False, message, cure, needed=False)


def _next_runs(client: SyncPrefectClient, deployment: DeploymentResponse) -> list[FlowRun]:
    return client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED, StateType.RUNNING]))
        ),
        limit=1,
    )


def _is_stale(deployment: DeploymentResponse, entrypoint: str) -> bool:
    """Whether a deployment takes other parameters than the flow that is installed here, or is of a directory."""
    module, _, function = entrypoint.rpartition(".")
    flow: Flow[..., Any] = getattr(import_module(module), function)
    here, there = flow.parameters.model_dump_for_openapi(), deployment.parameter_openapi_schema or {}
    takes_others = any(here.get(part) != there.get(part) for part in ("properties", "required"))
    return takes_others or deployment.entrypoint != entrypoint or bool(deployment.pull_steps)
