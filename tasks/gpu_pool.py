"""Run a flow on a worker of the GPU pool, and wait for it."""

from __future__ import annotations

import time
from typing import Any, NoReturn, cast

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType, WorkerStatus
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling, Scheduled

from paddock.errors import EngineCrashed, OrchestratorUnavailable, PaddockError
from paddock.lifecycle.clients import connect

GPU_POOL = "paddock-gpu"

_WAITING = frozenset({StateType.SCHEDULED, StateType.PENDING, StateType.PAUSED})
_QUEUE_LIMIT_S = 24 * 3600.0
_POLL_S = 5.0
_SLOW_BYTES_PER_S = 5e6
_CURE = "see that run and its pool's workers"


def start_on_gpu(deployment: str, parameters: dict[str, Any]) -> FlowRun | None:
    """Give a run to the GPU pool. None where nobody would take it: no worker of the pool is online, or that deployment
    does not exist."""
    with get_client(sync_client=True) as client:
        if not _worker_is_online(client):
            return None
    try:
        return cast(FlowRun, run_deployment(deployment, parameters=parameters, timeout=0))
    except ObjectNotFound:
        return None


def await_completion(
    run: FlowRun, *, run_limit_s: float, queue_limit_s: float = _QUEUE_LIMIT_S, poll_s: float = _POLL_S
) -> None:
    """Wait for a run on another worker, and raise what it ended with unless it completed.

    It may stand in the queue for long behind another one, so its own time counts from where it begins. One that is
    waited for no longer is cancelled: OrchestratorUnavailable says that nobody took it, EngineCrashed that it took too
    long.
    """
    with get_client(sync_client=True) as client:
        state = _await_start(client, run, limit_s=queue_limit_s, poll_s=poll_s)
        deadline = time.monotonic() + run_limit_s
        while not state.is_final():
            if time.monotonic() > deadline:
                _give_up(client, run, EngineCrashed(f"{_name(run)} did not end within {run_limit_s:.0f} s", cure=_CURE))
            time.sleep(poll_s)
            state = _state(client, run)
    if not state.is_completed():
        raise EngineCrashed(f"{_name(run)} did not complete: {state.message or state.name}", cure=_CURE)


def time_limit_s(*, engine_runs: int, fetch_bytes: int = 0) -> float:
    """How long a run on another worker may take: the engine's own limit for each run of it, and a while to start it, to
    fetch the model over a slow line, and to report."""
    return engine_runs * connect().settings.engine_timeout_s + fetch_bytes / _SLOW_BYTES_PER_S + 120


def _await_start(client: SyncPrefectClient, run: FlowRun, *, limit_s: float, poll_s: float) -> State[Any]:
    """The first state of a run that is more than waiting."""
    deadline = time.monotonic() + limit_s
    while (state := _state(client, run)).type in _WAITING:
        if not _worker_is_online(client):
            why = f"{_name(run)} was taken by nobody: no worker of the pool is online any more"
            _give_up(client, run, OrchestratorUnavailable(why, cure="start a worker of that pool, and run it again"))
        if time.monotonic() > deadline:
            why = f"{_name(run)} was taken by nobody within {limit_s:.0f} s"
            _give_up(client, run, OrchestratorUnavailable(why, cure="see what the pool's workers are doing"))
        time.sleep(poll_s)
    return state


def _worker_is_online(client: SyncPrefectClient) -> bool:
    """Whether a worker of the GPU pool takes work now. A pool that does not exist has none. Prefect takes a worker that
    was killed for online for a minute and a half."""
    try:
        client.read_work_pool(GPU_POOL)  # the next call says it in a way that is no ObjectNotFound
        workers = client.read_workers_for_work_pool(GPU_POOL)
    except ObjectNotFound:
        return False
    return any(worker.status == WorkerStatus.ONLINE for worker in workers)


def _state(client: SyncPrefectClient, run: FlowRun) -> State[Any]:
    return client.read_flow_run(run.id).state or Scheduled()


def _give_up(client: SyncPrefectClient, run: FlowRun, error: PaddockError) -> NoReturn:
    client.set_flow_run_state(run.id, Cancelling())
    raise error


def _name(run: FlowRun) -> str:
    return f"the run {run.name} on the pool {GPU_POOL}"
