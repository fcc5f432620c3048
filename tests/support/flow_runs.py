"""Read what a flow left on the Prefect server: its newest run, the runs of its tasks, and its log."""

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
from prefect.client.schemas.sorting import FlowRunSort, LogSort


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
    return messages(client, run, level=logging.WARNING)


def messages(client: SyncPrefectClient, run: FlowRun, *, level: int = logging.INFO, last: str = "") -> list[str]:
    """The messages of a run's log in their order, up to one with the text `last`: the server gets them in batches."""
    of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]), level=LogFilterLevel(ge_=level))
    deadline = time.monotonic() + 30
    while True:
        found = [one.message for one in client.read_logs(of_run, limit=200, sort=LogSort.TIMESTAMP_ASC)]
        if any(last in message for message in found) or time.monotonic() > deadline:
            return found
        time.sleep(0.2)
