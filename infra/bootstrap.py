"""Create Paddock's work pools on a Prefect server, deploy its flows there, and create its automations.

`python -m infra.bootstrap [--gpus N]` uses the server of PREFECT_API_URL, or of the active profile. It can be run again
at any time, and says what it changed: an existing pool keeps its settings, and deployments are updated to prefect.yaml.
A concurrency limit that an operator set on the GPU pool stays, unless `--gpus` gives another one, and so does whatever
an operator paused or switched off.

`POOLS` defines the pools and `NIGHT_QUEUE` a queue of each; prefect.yaml defines the deployments, and
`infra.automations` the automations.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from infra.deployments import DeployFailed, deploy_all
from tasks.queues import NIGHT_QUEUE

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

GPU_POOL = "paddock-gpu"
POOLS: Mapping[str, int | None] = {"paddock-io": None, GPU_POOL: 1, "paddock-serve": None}
"""Work pools, with the concurrency limit of a new pool; None: no limit."""

NIGHT_PRIORITY = 10
"""Priority of the queue of scheduled runs. Those that a person starts are in the pool's default queue, whose priority
is 1: a worker takes them first."""

_CHECKOUT = Path(__file__).resolve().parents[1]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.bootstrap", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--gpus",
        type=_positive,
        metavar="N",
        help=f"number of GPUs: concurrency limit of the pool {GPU_POOL} (default: 1 for a new pool, else unchanged)",
    )
    options = parser.parse_args(arguments)

    from flows.schedule import maintenance_schedule, refresh_schedule
    from paddock.errors import BadSetting

    try:
        for schedule in (maintenance_schedule, refresh_schedule):
            schedule()  # `prefect deploy` would print a traceback
    except BadSetting as error:
        print(error, file=sys.stderr)
        return 3

    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():  # Prefect would start a temporary server, and the pools would be lost with it
        print("No Prefect server is configured: set PREFECT_API_URL to its API, http://HOST:4200/api", file=sys.stderr)
        return 1
    from infra.automations import create_automations

    is_changed = False
    try:
        with get_client(sync_client=True) as client:
            for line in chain(
                create_pools(client, gpus=options.gpus),
                create_queues(client),
                deploy_all(client, _CHECKOUT),
                create_automations(client),
            ):
                print(line, flush=True)
                is_changed |= is_change(line)
    except DeployFailed as error:
        print(error, file=sys.stderr)
        return 1
    except httpx.HTTPError as error:
        problem = (
            f"HTTP status {error.response.status_code}" if isinstance(error, httpx.HTTPStatusError) else str(error)
        )
        print(f"Prefect server: {problem}. Start it, or correct PREFECT_API_URL and its credentials", file=sys.stderr)
        return 1
    if not is_changed:
        print("Nothing was changed")
    return 0


def is_change(line: str) -> bool:
    """Whether a line about a pool, queue, deployment or automation tells of a change."""
    return ": created" in line or ": updated" in line or "(before: " in line


def create_pools(client: SyncPrefectClient, *, gpus: int | None = None) -> Iterator[str]:
    """Create the pools that do not exist, and yield a line about each pool.

    `gpus` sets the concurrency limit of the GPU pool. Without it an existing limit stays. A GPU pool without a limit
    gets the default: a worker started before the bootstrap creates its pool without one, and two runs would share a
    GPU.

    A new pool has no job template: its first worker sends the template of its type.
    """
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists

    for name, default in POOLS.items():
        limit = gpus if name == GPU_POOL and gpus is not None else default
        try:
            client.create_work_pool(WorkPoolCreate(name=name, type="process", concurrency_limit=limit))
        except ObjectAlreadyExists:
            current = client.read_work_pool(name).concurrency_limit
            if current is not None and (name != GPU_POOL or gpus is None):
                limit = current
            if limit != current:
                client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=limit))
            yield f"{name}: exists, {_limit_text(limit)}" + (
                f" (before: {_limit_text(current)})" if limit != current else ""
            )
        else:
            yield f"{name}: created, {_limit_text(limit)}"


def create_queues(client: SyncPrefectClient) -> Iterator[str]:
    """Create the queue of scheduled runs in each pool that has none, and yield a line about each. Existing ones keep
    their priority."""
    from prefect.exceptions import ObjectNotFound

    for pool in POOLS:
        try:
            queue = client.read_work_queue_by_name(NIGHT_QUEUE, work_pool_name=pool)
        except ObjectNotFound:
            client.create_work_queue(
                NIGHT_QUEUE,
                work_pool_name=pool,
                priority=NIGHT_PRIORITY,
                description="Scheduled runs, which wait for those that a person started.",
            )
            yield f"{pool}: queue {NIGHT_QUEUE}: created, priority {NIGHT_PRIORITY}"
        else:
            yield f"{pool}: queue {NIGHT_QUEUE}: exists, priority {queue.priority}"


def _limit_text(limit: int | None) -> str:
    return "no limit" if limit is None else f"{limit} run{'s' * (limit != 1)} at once"


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


if __name__ == "__main__":
    sys.exit(main())
