"""The workers of the local stack, one for each work pool that `infra.bootstrap` creates."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import httpx

from infra.bootstrap import POOLS
from infra.local.service import Service, ServiceEnded
from infra.local.state import CHECKOUT, private_directory

_READY_S = 90.0


def bootstrap(directory: Path, environment: Mapping[str, str]) -> None:
    """Create the pools and deploy every flow. Raises ServiceError with what Prefect said."""
    with start_bootstrap(directory, environment) as service:
        await_deployments(service)


def start_bootstrap(directory: Path, environment: Mapping[str, str]) -> Service:
    """Start `infra.bootstrap`; returns when the pools exist, while it deploys. Raises ServiceError.

    A worker whose pool does not exist creates it, without a limit: start workers after this.
    """
    service = Service(
        "the bootstrap",
        [sys.executable, "-m", "infra.bootstrap"],
        log=private_directory(directory) / "bootstrap.log",
        environment=environment,
        directory=CHECKOUT,
    )
    try:
        service.wait_until(lambda: set(POOLS) <= _pools(environment["PREFECT_API_URL"]), deadline_s=_READY_S)
    except BaseException:
        service.stop()
        raise
    return service


def await_deployments(service: Service) -> None:
    """Wait for the end of a bootstrap. Raises ServiceEnded when it failed."""
    status = service.wait()
    if status != 0:
        raise ServiceEnded(f"{service.name} ended with status {status}{service.tail()}")


def start_worker(
    pool: str, directory: Path, environment: Mapping[str, str], *, python: Path = Path(sys.executable)
) -> Service:
    """A worker of `pool`, when Prefect's server has heard from it. It runs flows with `environment` and with `python`,
    and works in `directory`."""
    name = _name(pool)
    started = datetime.now(UTC)
    worker = ["worker", "start", "--pool", pool, "--type", "process", "--name", name]
    service = Service(
        f"the worker of {pool}",
        [str(python), "-m", "prefect", "--no-prompt", *worker],
        log=private_directory(directory) / f"{name}.log",
        environment=environment,
        directory=directory,
    )
    try:
        service.wait_until(
            lambda: _heard_since(environment["PREFECT_API_URL"], pool, name, started),
            deadline_s=_READY_S,
            interval_s=0.3,
        )
    except BaseException:
        service.stop()
        raise
    return service


def forget_workers(url: str) -> None:
    """Tell the server that the workers are gone: it would believe for 90 s more that they are there to take runs."""
    with suppress(httpx.HTTPError), httpx.Client(base_url=url, trust_env=False, timeout=5) as api:
        for pool in POOLS:
            api.delete(f"/work_pools/{pool}/workers/{_name(pool)}")


def _name(pool: str) -> str:
    return f"local-{pool}"


def _pools(url: str) -> set[str]:
    try:
        with httpx.Client(base_url=url, trust_env=False, timeout=5) as api:
            found = api.post("/work_pools/filter", json={}).raise_for_status().json()
    except httpx.HTTPError:
        return set()
    return {pool["name"] for pool in found}


def _heard_since(url: str, pool: str, name: str, moment: datetime) -> bool:
    try:
        with httpx.Client(base_url=url, trust_env=False, timeout=5) as api:
            workers = api.post(f"/work_pools/{pool}/workers/filter", json={}).raise_for_status().json()
    except httpx.HTTPError:
        return False
    heard = [datetime.fromisoformat(each["last_heartbeat_time"]) for each in workers if each["name"] == name]
    return any(beat > moment for beat in heard)
