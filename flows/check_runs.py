"""Check the flow runs of a Prefect server for `paddock doctor`: runs that wait past their time, and dead ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateName,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events.filters import EventFilter, EventOccurredFilter, EventResourceFilter
from prefect.states import Crashed

from paddock.errors import OrchestratorUnavailable
from paddock.lifecycle.upkeep.doctor import CheckResult
from paddock.model.units import human_time

SILENCE: Final = timedelta(minutes=45)
"""A run without an event for so long is dead. The automations mark one after 15 and 30 minutes."""
_MOST: Final = 200


def check_runs(
    client: SyncPrefectClient, flows: Sequence[str], *, silence: timedelta = SILENCE
) -> Iterator[CheckResult]:
    """Yield a result for each thing that is wrong with the runs.

    `flows` are those whose runs have a process until they end. One without an event for `silence` is dead.
    """
    state = FlowRunFilterState(name=FlowRunFilterStateName(any_=["Late"]))
    late = client.read_flow_runs(flow_run_filter=FlowRunFilter(state=state), limit=_MOST)
    if late:
        message = f"{len(late)} wait past their time, such as {late[0].name}"
        yield CheckResult("Prefect: runs", False, message, "see the pools and their workers above", needed=False)
    dead = _dead_runs(client, flows, silence)
    if dead:
        message = (
            f"{len(dead)} without a sign of life for {human_time(silence.total_seconds())}, such as {dead[0].name}"
        )
        cure = "`paddock doctor --fix` marks them as Crashed; one that lives goes on all the same"
        yield CheckResult("Prefect: dead runs", False, message, cure, fix=partial(_mark, dead), needed=False)


def _dead_runs(client: SyncPrefectClient, flows: Sequence[str], silence: timedelta) -> list[FlowRun]:
    """The runs that a worker took and that did not end, of which the server has no event for so long."""
    since = datetime.now(UTC) - silence
    begun = FlowRunFilter(
        state=FlowRunFilterState(
            type=FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING, StateType.CANCELLING])
        ),
        expected_start_time=FlowRunFilterExpectedStartTime(before_=since),
    )
    named = FlowFilter(name=FlowFilterName(any_=list(flows)))
    runs = client.read_flow_runs(flow_filter=named, flow_run_filter=begun, limit=_MOST)
    return [run for run in runs if not _has_events(client, run, since)]


def _has_events(client: SyncPrefectClient, run: FlowRun, since: datetime) -> bool:
    found = EventFilter(
        occurred=EventOccurredFilter(since=since), resource=EventResourceFilter(id=[f"prefect.flow-run.{run.id}"])
    )
    return client.read_events(found, limit=1).total > 0


def _mark(runs: Sequence[FlowRun]) -> None:
    gone: State[None] = Crashed(message="no sign of life: the run's process or machine is gone")
    try:
        with get_client(sync_client=True) as client:
            for run in runs:
                client.set_flow_run_state(run.id, gone, force=True)
    except httpx.HTTPError as error:
        message = f"the server did not take the state of a run: {type(error).__name__}"
        raise OrchestratorUnavailable(message, cure="run `paddock doctor --fix` again") from error
