"""Define the retry policies of tasks, and log Paddock's errors without a traceback.

A step that raised a transient error is retried with growing, jittered delays; a permanent error fails at the first try.
Prefect caches nothing (`NO_CACHE`): results are on the volume and in S3, and its cache would hash the clients.
"""

from __future__ import annotations

import logging
from typing import Any, TypedDict

from prefect import Task
from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.client.schemas.objects import State, TaskRun

from paddock.errors import PaddockError, TransientError
from paddock.lifecycle.retries import JITTER, RETRY_DELAYS_S, Kind


class Policy(TypedDict, total=False):
    """Keyword arguments of `prefect.task`."""

    retries: int
    retry_delay_seconds: list[float]
    retry_jitter_factor: float
    retry_condition_fn: Any
    timeout_seconds: float
    cache_policy: CachePolicy
    persist_result: bool


class FlowPolicy(TypedDict):
    """Keyword arguments of `prefect.flow`."""

    persist_result: bool


def is_transient_failure(task: Task[Any, Any], task_run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001 Prefect's names
    """Whether the task failed with a transient error. It must be a plain function: with a `functools.partial`, Prefect
    silently never retries."""
    return isinstance(state.result(raise_on_failure=False), TransientError)


def without_traceback(record: logging.LogRecord) -> bool:
    """Logging filter: log a PaddockError as its message alone. Prefect would add a traceback, which does not help its
    reader."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, PaddockError):
        record.exc_info = None
        record.msg, record.args = "%s", (str(error),)
    return True


NO_RETRY: Policy = {"cache_policy": NO_CACHE, "persist_result": False}


def _policy(kind: Kind) -> Policy:
    delays_s = RETRY_DELAYS_S[kind]
    if not delays_s:
        return NO_RETRY
    return {
        **NO_RETRY,
        "retries": len(delays_s),
        "retry_delay_seconds": list(delays_s),
        "retry_jitter_factor": JITTER,
        "retry_condition_fn": is_transient_failure,
    }


BY_KIND: dict[Kind, Policy] = {kind: _policy(kind) for kind in Kind}
"""The policy of a step's task, by its kind, with the delays of `RETRY_DELAYS_S`."""

FLOW: FlowPolicy = {"persist_result": False}
"""The policy of every flow."""

# At import, since every process that runs a flow imports this. Prefect's hooks would log a line each time they ran.
for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(without_traceback)
