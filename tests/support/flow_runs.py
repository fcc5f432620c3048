"""Read what a flow left on the Prefect server: its newest run, the runs of its tasks, and its warnings."""

from __future__ import annotations

import logging
import time
from typing import Any

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterName,
    LogFilter,
    LogFilterFlowRunId,
    LogFilterLevel,
    TaskRunFilter,
    TaskRunFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.client.schemas.sorting import FlowRunSort


def newest(client: SyncPrefectClient, flow: Flow[..., Any]) -> FlowRun:
    (run,) = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(name=FlowRunFilterName(like_=flow.name.removesuffix("-model") + " ")),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=1,
    )
    return run


def tries(client: SyncPrefectClient, flow: Flow[..., Any], task: str) -> list[TaskRun]:
    """The runs of one task in the newest run of a flow. Prefect hears of them by events, some time after they ended."""
    run = newest(client, flow)
    its_own = TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[run.id]))
    deadline = time.monotonic() + 30
    while True:
        runs = [one for one in client.read_task_runs(task_run_filter=its_own) if one.name.startswith(task)]
        if (runs and all(one.state and one.state.is_final() for one in runs)) or time.monotonic() > deadline:
            return runs
        time.sleep(0.2)


def warnings(client: SyncPrefectClient, run: FlowRun) -> list[str]:
    """The warnings of a run, which Prefect's server gets in batches."""
    of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]), level=LogFilterLevel(ge_=logging.WARNING))
    deadline = time.monotonic() + 30
    while not (found := client.read_logs(of_run)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return [one.message for one in found]
