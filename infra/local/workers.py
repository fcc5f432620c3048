"""What of Prefect does the work: the pools, their workers, and the deployments.

`POOLS` says which pools there are and how many runs each takes at once. Flows and their deployments are not known here:
they are in prefect.yaml, beside the checkout's flows.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import httpx

from infra.local.prefect_server import prefect_program
from infra.local.service import Service, run
from infra.local.state import CHECKOUT, private_directory

POOLS: Mapping[str, int | None] = {"paddock-io": None, "paddock-gpu": 1}  # None: no limit
_READY_S = 90.0


def create_pools(url: str) -> None:
    """Make each pool that is not there, and set the limit of each. `url` is the API's.

    A pool is made without a template for its jobs: the first worker supplies that of its type. Over HTTP, since each
    call of Prefect's command line costs seconds, and its `--overwrite` resets the limit.
    """
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as api:
        for name, limit in POOLS.items():
            made = api.post("/work_pools/", json={"name": name, "type": "process", "concurrency_limit": limit})
            if made.status_code == httpx.codes.CONFLICT:
                api.patch(f"/work_pools/{name}", json={"concurrency_limit": limit}).raise_for_status()
            else:
                made.raise_for_status()


def deploy(directory: Path, environment: Mapping[str, str], *, project: Path = CHECKOUT) -> None:
    """Deploy all of the project's prefect.yaml. Raises ServiceError with what Prefect said."""
    command = [prefect_program(), "--no-prompt", "deploy", "--all"]
    log = private_directory(directory) / "deploy.log"
    run("prefect deploy", command, log=log, environment=environment, directory=project)


def start_worker(pool: str, directory: Path, environment: Mapping[str, str], *, project: Path = CHECKOUT) -> Service:
    """A worker of `pool`, when Prefect's server has heard from it. It runs flows with `environment`."""
    name = _name(pool)
    started = datetime.now(UTC)
    service = Service(
        f"the worker of {pool}",
        [prefect_program(), "--no-prompt", "worker", "start", "--pool", pool, "--type", "process", "--name", name],
        log=private_directory(directory) / f"{name}.log",
        environment=environment,
        directory=project,
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


def _heard_since(url: str, pool: str, name: str, moment: datetime) -> bool:
    try:
        with httpx.Client(base_url=url, trust_env=False, timeout=5) as api:
            workers = api.post(f"/work_pools/{pool}/workers/filter", json={}).raise_for_status().json()
    except httpx.HTTPError:
        return False
    heard = [datetime.fromisoformat(each["last_heartbeat_time"]) for each in workers if each["name"] == name]
    return any(beat > moment for beat in heard)
