"""Run a deployment on the GPU work pool, and wait for its end; name the pool that runs the current flow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NoReturn, cast
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType, WorkerStatus
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Cancelling, Scheduled

from paddock.errors import EngineCrashed, OrchestratorUnavailable, PaddockError
from paddock.lifecycle.clients import connect
from tasks.queues import NIGHT_QUEUE
from tasks.run_log import run_logger

GPU_POOL = "paddock-gpu"

_WAITING = frozenset({StateType.SCHEDULED, StateType.PENDING, StateType.PAUSED})
_QUEUE_LIMIT_S = 24 * 3600.0
_POLL_S = 5.0
_FIRST_TOLD_S = 10.0
_TOLD_S = 60.0
_NAMED_RUNS = 3
_SLOW_BYTES_PER_S = 5e6
_CURE = "look at that run and the workers of its pool"


def start_on_gpu(deployment: str, parameters: dict[str, Any]) -> FlowRun | None:
    """Schedule a run on the GPU work pool. Returns None where no worker of the pool is online, or the deployment does
    not exist."""
    if not has_worker():
        return None
    try:
        run = run_deployment(deployment, parameters=parameters, timeout=0, work_queue_name=own_queue())
        return cast(FlowRun, run)
    except ObjectNotFound:
        return None


def has_worker() -> bool:
    """Whether a worker of the GPU work pool is online."""
    with get_client(sync_client=True) as client:
        return _worker_is_online(client)


def await_completion(
    run: FlowRun,
    *,
    run_limit_s: float,
    queue_limit_s: float = _QUEUE_LIMIT_S,
    poll_s: float = _POLL_S,
    log_s: float = _TOLD_S,
) -> None:
    """Wait for a run on another worker to complete. Each `log_s` seconds the log says what it waits for.

    `queue_limit_s` bounds the wait for its start: other runs may be queued before it. `run_limit_s` counts from its
    start. A run that exceeds a limit is cancelled. Raises OrchestratorUnavailable if no worker started it, and
    EngineCrashed if it failed or exceeded `run_limit_s`.
    """
    with get_client(sync_client=True) as client:
        state = _await_start(client, run, limit_s=queue_limit_s, poll_s=poll_s, log_s=log_s)
        deadline, told = time.monotonic() + run_limit_s, time.monotonic()
        while not state.is_final():
            if time.monotonic() >= told + log_s:
                told = time.monotonic()
                run_logger().info("waiting for %s: it is %s", _name(run), state.name)
            if time.monotonic() > deadline:
                _cancel(client, run, EngineCrashed(f"{_name(run)} did not end within {run_limit_s:.0f} s", cure=_CURE))
            time.sleep(poll_s)
            state = _state(client, run)
    if not state.is_completed():
        raise EngineCrashed(f"{_name(run)} did not complete: {state.message or state.name}", cure=_CURE)


def own_pool() -> str | None:
    """The work pool whose worker runs the current flow, or the flow that called it; None outside of a worker."""
    return next((run.work_pool_name for run in _runs_above() if run.work_pool_name), None)


def own_queue() -> str | None:
    """`NIGHT_QUEUE` if the current flow, or the flow that called it, waited there; None for the deployment's own
    queue."""
    queue = next((run.work_queue_name for run in _runs_above() if run.work_queue_name), None)
    return queue if queue == NIGHT_QUEUE else None


def _runs_above() -> Iterator[FlowRun]:
    """The current flow run, the one that called it, and so on."""
    id = flow_run.get_id()
    if id is None:
        return
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(id))
        yield run
        while run.parent_task_run_id is not None:
            caller = client.read_task_run(run.parent_task_run_id).flow_run_id
            if caller is None:
                return
            run = client.read_flow_run(caller)
            yield run


def time_limit_s(*, engine_runs: int, fetch_bytes: int = 0) -> float:
    """The time limit of a run on another worker in seconds: that of the engine for each of its runs, the time to fetch
    the model at 5 MB/s, and 120 s to start and report."""
    return engine_runs * connect().settings.engine_timeout_s + fetch_bytes / _SLOW_BYTES_PER_S + 120


def _await_start(client: SyncPrefectClient, run: FlowRun, *, limit_s: float, poll_s: float, log_s: float) -> State[Any]:
    """Wait until a run has left the queue, and return its state."""
    deadline = time.monotonic() + limit_s
    told = time.monotonic() + min(_FIRST_TOLD_S - log_s, 0)
    while (state := _state(client, run)).type in _WAITING:
        if time.monotonic() >= told + log_s:
            told = time.monotonic()
            run_logger().info("waiting for %s: %s", GPU_POOL, _reason_to_wait(client, run))
        if not _worker_is_online(client):
            message = f"{_name(run)} was not started: no worker of the pool is online any more"
            _cancel(client, run, OrchestratorUnavailable(message, cure="start a worker of that pool, and run it again"))
        if time.monotonic() > deadline:
            message = f"{_name(run)} was not started by a worker within {limit_s:.0f} s"
            _cancel(client, run, OrchestratorUnavailable(message, cure="look at the workers of the pool"))
        time.sleep(poll_s)
    return state


def _reason_to_wait(client: SyncPrefectClient, run: FlowRun) -> str:
    """Why a run has not started yet: a paused pool or queue, or the runs before it."""
    pool = client.read_work_pool(GPU_POOL)
    queue = client.read_work_queue_by_name(run.work_queue_name or "default", work_pool_name=GPU_POOL)
    if pool.is_paused:
        return f"the pool is paused: `prefect work-pool resume {GPU_POOL}`"
    if queue.is_paused:
        return f"its queue is paused: `prefect work-queue resume {queue.name} --pool {GPU_POOL}`"
    busy = client.read_flow_runs(
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[GPU_POOL])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))
        ),
        limit=_NAMED_RUNS + 1,
    )
    names = [one.name for one in busy if one.id != run.id]
    if not names:
        return "its worker has not started the run yet"
    more = " and others" if len(names) > _NAMED_RUNS else ""
    return f"{', '.join(names[:_NAMED_RUNS])}{more} {'runs' if len(names) == 1 else 'run'} there"


def _worker_is_online(client: SyncPrefectClient) -> bool:
    """Whether a worker of the GPU pool is online. Prefect shows a worker that was killed as online for 90 s."""
    try:
        client.read_work_pool(GPU_POOL)  # raises ObjectNotFound for a missing pool; the next call raises another error
        workers = client.read_workers_for_work_pool(GPU_POOL)
    except ObjectNotFound:
        return False
    return any(worker.status == WorkerStatus.ONLINE for worker in workers)


def _state(client: SyncPrefectClient, run: FlowRun) -> State[Any]:
    return client.read_flow_run(run.id).state or Scheduled()


def _cancel(client: SyncPrefectClient, run: FlowRun, error: PaddockError) -> NoReturn:
    client.set_flow_run_state(run.id, Cancelling())
    raise error


def _name(run: FlowRun) -> str:
    return f"the run {run.name} on the pool {GPU_POOL}"
