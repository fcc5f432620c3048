"""Deploy the flows of prefect.yaml, and say of each deployment whether that changed it.

A schedule that an operator switched off stays off: `prefect deploy` would switch it on again.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

_DEFINITION = (
    "entrypoint",
    "description",
    "tags",
    "parameters",
    "parameter_openapi_schema",
    "enforce_parameter_schema",
    "pull_steps",
    "work_pool_name",
    "work_queue_name",
    "job_variables",
    "concurrency_options",
)


class DeployFailed(Exception):
    """`prefect deploy` failed. The message is its output."""


def deploy_all(client: SyncPrefectClient, project: Path) -> Iterator[str]:
    """Deploy everything in the project's prefect.yaml, and yield a line about each deployment. Raises DeployFailed."""
    before = _read_all(client)
    _run_prefect_deploy(project)
    after = _read_all(client)
    for name, deployment in sorted(after.items()):
        _keep_switched_off(client, before.get(name), deployment)
        if name not in before:
            yield f"{name}: created"
        elif _definition(before[name]) != _definition(deployment):
            yield f"{name}: updated"
        else:
            yield f"{name}: exists"


def _run_prefect_deploy(project: Path) -> None:
    """Running `python -m prefect` puts the project before the installed packages on the import path, so that its own
    flows are read."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DeployFailed(f"{done.stdout}{done.stderr}".strip())


def _read_all(client: SyncPrefectClient) -> Mapping[str, DeploymentResponse]:
    found: list[DeploymentResponse] = []
    while page := client.read_deployments(offset=len(found), limit=200):
        found += page
    flows = {flow_id: client.read_flow(flow_id).name for flow_id in {one.flow_id for one in found}}
    return {f"{flows[one.flow_id]}/{one.name}": one for one in found}


def _keep_switched_off(client: SyncPrefectClient, before: DeploymentResponse | None, after: DeploymentResponse) -> None:
    off = {schedule.slug for schedule in before.schedules if not schedule.active} if before else set()
    for schedule in after.schedules:
        if schedule.active and schedule.slug in off:
            client.update_deployment_schedule(after.id, schedule.id, active=False)


def _definition(deployment: DeploymentResponse) -> dict[str, Any]:
    """The fields that prefect.yaml and the flow define, without the server's ids and times."""
    schedules = [
        (schedule.slug, schedule.schedule.model_dump(mode="json"), schedule.parameters)
        for schedule in deployment.schedules
    ]
    limit = deployment.global_concurrency_limit
    return {
        **deployment.model_dump(mode="json", include=set(_DEFINITION)),
        "schedules": sorted(schedules, key=str),
        "limit": limit.limit if limit else None,
    }
