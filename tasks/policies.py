"""Retry policies of tasks, and what their failures look like in Prefect.

A transient error is tried again with growing, jittered delays; a permanent one fails at the first try. Nothing is
cached by Prefect: the volume and S3 are the memory, and Prefect's own would try to hash clients.
"""

from __future__ import annotations

import logging
from typing import Any, TypedDict

from prefect import Task
from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.client.schemas.objects import State, TaskRun

from paddock.errors import PaddockError, TransientError
from paddock.lifecycle.steps import JITTER, RETRY_DELAYS_S, Kind


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


def is_worth_another_try(task: Task[Any, Any], task_run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001 Prefect's names
    """Whether the failure was transient. A plain function: Prefect silently never retries with a
    `functools.partial`."""
    return isinstance(state.result(raise_on_failure=False), TransientError)


def without_traceback(record: logging.LogRecord) -> bool:
    """Log an error that we raised on purpose as its sentence. Prefect adds a traceback, which tells its reader
    nothing."""
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
        "retry_condition_fn": is_worth_another_try,
    }


BY_KIND: dict[Kind, Policy] = {kind: _policy(kind) for kind in Kind}
"""The policy of a step's task, by its kind; the delays are the library's."""

FLOW: FlowPolicy = {"persist_result": False}
"""Every flow."""

# At import, because every process that runs a flow imports this; Prefect's hooks would log that they ran.
for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(without_traceback)
