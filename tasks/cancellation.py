"""Cancel the flow runs below an interrupted one.

Prefect ends the run whose main thread a signal or a cancellation interrupts. Runs below it that other threads carry out
would stay Running, and keep their places in pools, until an automation finds that their heartbeats are missing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import PrefectException
from prefect.runtime import flow_run
from prefect.states import Cancelled, Cancelling

_UNFINISHED = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING]
_MESSAGE = "the run above it was interrupted"
_LOG = logging.getLogger(__name__)


def is_cancelling() -> bool:
    """Whether somebody has cancelled the current run, which has not ended yet."""
    run = flow_run.get_id()
    if run is None:
        return False
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(UUID(str(run))).state
    return state is not None and state.is_cancelling()


@contextmanager
def cancelling_runs_below() -> Iterator[None]:
    """Cancel all unfinished runs below the current one if the block is interrupted: by a signal, a cancellation, or
    Ctrl-C. An error of Prefect's server is only a warning, so that the interruption goes on."""
    run = flow_run.get_id()
    try:
        yield
    except Exception:
        raise
    except BaseException:
        try:
            with get_client(sync_client=True) as client:
                _cancel_below(client, [UUID(str(run))] if run else [])
        except (httpx.HTTPError, PrefectException, RuntimeError) as error:
            _LOG.warning("runs below %s may stay Running: %s", run, type(error).__name__)
        raise


def _cancel_below(client: SyncPrefectClient, parents: Sequence[UUID]) -> None:
    """The upper runs first, so that they start no other ones."""
    while parents:
        runs = _unfinished(client, parents)
        for run in runs:
            # One of a deployment has a process of its own, which its worker ends.
            make_state = Cancelling if run.deployment_id else Cancelled
            client.set_flow_run_state(run.id, make_state(message=_MESSAGE), force=True)
        parents = [run.id for run in runs]


def _unfinished(client: SyncPrefectClient, parents: Sequence[UUID]) -> list[FlowRun]:
    below = FlowRunFilter(
        parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=list(parents)),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_UNFINISHED)),
    )
    found: list[FlowRun] = []
    while page := client.read_flow_runs(flow_run_filter=below, offset=len(found)):
        found += page
    return found
