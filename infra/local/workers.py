"""Start the local stack's Prefect workers, one for each work pool that `infra.bootstrap` creates."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import httpx

from infra.bootstrap import POOLS
from infra.local.loopback import loopback_client
from infra.local.service import Service, ServiceEnded
from infra.local.state import CHECKOUT, private_directory

_READY_S = 90.0


def bootstrap(directory: Path, environment: Mapping[str, str]) -> None:
    """Create the pools and deploy every flow. Raises ServiceError with Prefect's output."""
    with start_bootstrap(directory, environment) as service:
        await_deployments(service)


def start_bootstrap(directory: Path, environment: Mapping[str, str]) -> Service:
    """Start `infra.bootstrap`, and return when the pools exist, while it still deploys. Raises ServiceError.

    Start workers after this: a worker whose pool does not exist creates it without a concurrency limit.
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
    """Wait until a bootstrap has ended. Raises ServiceEnded if it failed."""
    status = service.wait()
    if status != 0:
        raise ServiceEnded(f"{service.name} exited with status {status}{service.tail()}")


def start_worker(
    pool: str,
    directory: Path,
    environment: Mapping[str, str],
    *,
    name: str | None = None,
    python: Path = Path(sys.executable),
) -> Service:
    """Start a worker of `pool`, and return when the Prefect server has got its first heartbeat.

    It runs flows with the interpreter `python` and the variables of `environment`, in `directory`. Several workers of
    one pool each need a `name`; by default it is made of the pool's.
    """
    name = name or _name(pool)
    worker = ["worker", "start", "--pool", pool, "--type", "process", "--name", name]
    service = Service(
        f"the worker of {pool}",
        [str(python), "-m", "prefect", "--no-prompt", *worker],
        log=private_directory(directory) / f"{name}.log",
        environment=environment,
        directory=directory,
    )
    service.is_ready = lambda: _has_heartbeat_since(environment["PREFECT_API_URL"], pool, name, service.started)
    try:
        service.wait_until(service.is_ready, deadline_s=_READY_S, interval_s=0.3)
    except BaseException:
        service.stop()
        raise
    return service


def delete_workers(url: str) -> None:
    """Delete the workers from the server, which would otherwise take them for online for another 90 s."""
    with suppress(httpx.HTTPError), loopback_client(base_url=url) as api:
        for pool in POOLS:
            api.delete(f"/work_pools/{pool}/workers/{_name(pool)}")


def _name(pool: str) -> str:
    return f"local-{pool}"


def _pools(url: str) -> set[str]:
    try:
        with loopback_client(base_url=url) as api:
            found = api.post("/work_pools/filter", json={}).raise_for_status().json()
    except httpx.HTTPError:
        return set()
    return {pool["name"] for pool in found}


def _has_heartbeat_since(url: str, pool: str, name: str, moment: datetime) -> bool:
    try:
        with loopback_client(base_url=url) as api:
            workers = api.post(f"/work_pools/{pool}/workers/filter", json={}).raise_for_status().json()
    except httpx.HTTPError:
        return False
    heartbeats = [datetime.fromisoformat(worker["last_heartbeat_time"]) for worker in workers if worker["name"] == name]
    return any(heartbeat > moment for heartbeat in heartbeats)
