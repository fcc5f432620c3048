"""Create Paddock's work pools on a Prefect server, deploy its flows there, and create its automations.

`python -m infra.bootstrap [--gpus N]` uses the server of PREFECT_API_URL, or of the active profile. It can be run again
at any time: an existing pool keeps its settings, and deployments are updated to prefect.yaml. A concurrency limit that
an operator set on the GPU pool stays, unless `--gpus` gives another one.

`POOLS` defines the pools; prefect.yaml defines the deployments, and `infra.automations` the automations.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

GPU_POOL = "paddock-gpu"
POOLS: Mapping[str, int | None] = {"paddock-io": None, GPU_POOL: 1, "paddock-serve": None}
"""Work pools, with the concurrency limit of a new pool; None: no limit."""

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

    try:
        with get_client(sync_client=True) as client:
            for line in create_pools(client, gpus=options.gpus):
                print(line, flush=True)
            status = deploy(_CHECKOUT)
            for line in create_automations(client) if status == 0 else ():
                print(line, flush=True)
    except httpx.HTTPError as error:
        problem = (
            f"HTTP status {error.response.status_code}" if isinstance(error, httpx.HTTPStatusError) else str(error)
        )
        print(f"Prefect server: {problem}. Start it, or correct PREFECT_API_URL and its credentials", file=sys.stderr)
        return 1
    return status


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


def deploy(project: Path) -> int:
    """Deploy everything in the project's prefect.yaml, and return the exit status of `prefect deploy`.

    Running `python -m prefect` puts the project before the installed packages on the import path, so that its own flows
    are read.
    """
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    return subprocess.run(command, cwd=project, check=False).returncode


def _limit_text(limit: int | None) -> str:
    return "no limit" if limit is None else f"{limit} run{'s' * (limit != 1)} at once"


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


if __name__ == "__main__":
    sys.exit(main())
