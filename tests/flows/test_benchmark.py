"""Where a benchmark runs, and how long it is waited for when that is elsewhere. The worker is played here: what counts
is what Prefect's server says of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import ArtifactSort
from prefect.exceptions import ObjectNotFound
from prefect.flow_engine import run_flow
from prefect.runtime import flow_run
from prefect.states import Completed, Failed, Pending, Running

from flows.benchmark import benchmark_model, benchmark_on_gpu_worker
from infra.local.hub import HubService
from paddock.errors import EngineCrashed, OrchestratorUnavailable
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.onboard import OnboardRequest
from paddock.lifecycle.run.benchmark import read_benchmark
from paddock.lifecycle.run.pictures import Pictures, draw_pictures
from paddock.lifecycle.run.stored_benchmarks import record_benchmark
from paddock.model.reference import Reference
from tasks import gpu_pool
from tasks.recorders import StepRun, record
from tasks.runner import PrefectRunner
from tests.support.benchmarks import DISTURBED, a_benchmark
from tests.support.flow_runs import messages
from tests.support.gguf import U32, tiny_llama
from tests.support.stores import A, publish
from tests.support.tiny_hub import MODEL, NAME

DEPLOYMENT = "benchmark-model/benchmark-gpu"
POLL_S = 0.05


@pytest.fixture
def pool(client: SyncPrefectClient) -> Iterator[None]:
    client.create_work_pool(WorkPoolCreate(name=gpu_pool.GPU_POOL, type="process"))
    yield
    with suppress(ObjectNotFound):  # a test may have removed it
        client.delete_work_pool(gpu_pool.GPU_POOL)


@pytest.fixture
def deployment(client: SyncPrefectClient, pool: None) -> Iterator[Callable[[], FlowRun]]:
    """Makes runs of the deployed benchmark."""
    made = client.create_deployment(
        client.create_flow(benchmark_model), "benchmark-gpu", work_pool_name=gpu_pool.GPU_POOL
    )
    yield lambda: client.create_flow_run_from_deployment(made)
    client.delete_deployment(made)


@pytest.fixture
def worker(client: SyncPrefectClient, pool: None) -> None:
    client.send_worker_heartbeat(gpu_pool.GPU_POOL, "played", heartbeat_interval_seconds=60)


def state_of(client: SyncPrefectClient, run: FlowRun) -> StateType:
    state = client.read_flow_run(run.id).state
    assert state is not None
    return state.type


def test_without_a_deployment_the_benchmark_runs_in_this_process(
    clients: Clients, hub: HubService, client: SyncPrefectClient, worker: None
) -> None:
    roomy = tiny_llama().set("llama.context_length", U32, 512).to_bytes()
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": roomy})
    manifest = pull(clients, Reference(MODEL)).manifest
    request = OnboardRequest(Reference(MODEL), context_tokens=512)

    @flow
    def measure_it() -> None:
        benchmark_on_gpu_worker(PrefectRunner(), manifest, request)

    measure_it()
    assert read_benchmark(clients, manifest) is not None


def test_without_a_pool_no_run_is_made(client: SyncPrefectClient) -> None:
    assert gpu_pool.start_on_gpu(DEPLOYMENT, {"model": NAME}) is None


def test_a_run_whose_pool_was_deleted_is_cancelled(
    client: SyncPrefectClient, deployment: Callable[[], FlowRun]
) -> None:
    run = deployment()
    client.delete_work_pool(gpu_pool.GPU_POOL)
    with pytest.raises(OrchestratorUnavailable, match="no worker of the pool is online"):
        gpu_pool.await_completion(run, run_limit_s=30)


def test_without_a_worker_no_run_is_made(client: SyncPrefectClient, deployment: Callable[[], FlowRun]) -> None:
    assert gpu_pool.start_on_gpu(DEPLOYMENT, {"model": NAME}) is None


def test_with_a_worker_the_run_is_scheduled_on_the_pool(
    client: SyncPrefectClient, deployment: Callable[[], FlowRun], worker: None
) -> None:
    run = gpu_pool.start_on_gpu(DEPLOYMENT, {"model": NAME})
    assert run is not None
    assert state_of(client, run) == StateType.SCHEDULED


@pytest.mark.parametrize("state", [None, Pending()], ids=["scheduled", "pending"])
def test_a_run_that_waits_while_no_worker_is_online_is_cancelled(
    client: SyncPrefectClient, deployment: Callable[[], FlowRun], state: State | None
) -> None:
    run = deployment()
    if state is not None:
        client.set_flow_run_state(run.id, state)
    with pytest.raises(OrchestratorUnavailable, match=r"no worker of the pool is online.*start a worker"):
        gpu_pool.await_completion(run, run_limit_s=30)
    assert state_of(client, run) in {StateType.CANCELLING, StateType.CANCELLED}


def test_a_run_that_no_worker_starts_in_time_is_cancelled(
    client: SyncPrefectClient, deployment: Callable[[], FlowRun], worker: None
) -> None:
    run = deployment()
    with pytest.raises(OrchestratorUnavailable, match="was not started by a worker within"):
        gpu_pool.await_completion(run, run_limit_s=30, queue_limit_s=0.1, poll_s=POLL_S)
    assert state_of(client, run) in {StateType.CANCELLING, StateType.CANCELLED}


def test_the_time_in_the_queue_is_not_the_engine_s(
    client: SyncPrefectClient, deployment: Callable[[], FlowRun], worker: None
) -> None:
    limit_s = 0.3
    run = deployment()

    def take() -> None:
        client.set_flow_run_state(run.id, Running(), force=True)
        client.set_flow_run_state(run.id, Completed(), force=True)

    taken = threading.Timer(3 * limit_s, take)
    taken.start()
    began = time.monotonic()
    gpu_pool.await_completion(run, run_limit_s=limit_s, queue_limit_s=30, poll_s=POLL_S)
    assert time.monotonic() - began > 2 * limit_s
    taken.join()


def test_a_run_that_takes_too_long_is_cancelled(
    client: SyncPrefectClient, deployment: Callable[[], FlowRun], worker: None
) -> None:
    run = deployment()
    client.set_flow_run_state(run.id, Running(), force=True)
    began = time.monotonic()
    with pytest.raises(EngineCrashed, match="did not end within"):
        gpu_pool.await_completion(run, run_limit_s=0.3, poll_s=POLL_S)
    assert time.monotonic() - began > 0.3
    assert state_of(client, run) in {StateType.CANCELLING, StateType.CANCELLED}


def test_the_log_of_a_run_that_waits_for_another_says_so(
    client: SyncPrefectClient, deployment: Callable[[], FlowRun], worker: None
) -> None:
    run = deployment()
    client.set_flow_run_state(run.id, Running(), force=True)
    ended = threading.Timer(2.0, lambda: client.set_flow_run_state(run.id, Completed(), force=True))

    @flow
    def wait() -> str:
        ended.start()
        gpu_pool.await_completion(run, run_limit_s=60, poll_s=POLL_S, log_s=0.2)
        return str(flow_run.get_id())

    waited = client.read_flow_run(UUID(wait()))
    log = messages(client, waited, last="Finished in state")
    assert f"waiting for the run {run.name} on the pool {gpu_pool.GPU_POOL}: it is Running" in log
    ended.join()


def test_the_message_of_a_failed_run_is_raised(client: SyncPrefectClient, deployment: Callable[[], FlowRun]) -> None:
    run = deployment()
    client.set_flow_run_state(run.id, Failed(message="the engine is too old"), force=True)
    with pytest.raises(EngineCrashed, match="did not complete: the engine is too old"):
        gpu_pool.await_completion(run, run_limit_s=30)


@flow
def pool_of_this_run() -> str | None:
    return gpu_pool.own_pool()


@flow
def pool_of_an_inner_run() -> str | None:
    return pool_of_this_run()


def test_a_run_within_a_worker_s_run_knows_the_pool(deployment: Callable[[], FlowRun]) -> None:
    assert run_flow(pool_of_an_inner_run, flow_run=deployment()) == gpu_pool.GPU_POOL
    assert gpu_pool.own_pool() is None


def test_a_benchmark_that_does_not_stand_replaces_no_artifact(
    clients: Clients, client: SyncPrefectClient, tmp_path: Path
) -> None:
    clients.volume.prepare()
    manifest = publish(clients.volume, A, {"m.gguf": b"weights"}, tmp_path)
    clients.volume.promote(manifest.id, reason="a test")
    run = StepRun(clients, {"manifest": manifest}, "this-machine", 0.0)
    results = [a_benchmark(), a_benchmark(context_tokens=512), a_benchmark(doubts=DISTURBED), a_benchmark(decode=120)]

    @flow
    def record_all() -> None:
        for result in results:
            record_benchmark(clients, manifest, result)
            arguments = {"manifest": manifest, "measured": result}
            record(draw_pictures, replace(run, arguments=arguments), Pictures((), ()))

    record_all()
    subjects = [run.subject(), *map(run.subject().beside, results[1:3])]
    descriptions: list[list[str]] = []
    for subject in subjects:
        key = ArtifactFilterKey(any_=[subject.key("benchmark")])
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=key), sort=ArtifactSort.CREATED_DESC)
        descriptions.append([str(artifact.description) for artifact in found])
        if subject == run.subject():
            assert ["120.0 tokens/s" in str(artifact.data) for artifact in found] == [True, False]
    speeds, where = "prefill 1000.0 tokens/s, decode 100.0 tokens/s", "on A CPU, 8 cores, llama-cpp-python 1"
    name = manifest.id.short
    assert descriptions == [
        [f"{speeds.replace('decode 100', 'decode 120')}: {name} {where}", f"{speeds}: {name} {where}"],
        [f"{speeds}: {name} with 512 tokens of context {where}"],
        [f"{speeds} (not reliable): {name} with 4096 tokens of context {where}"],
    ]
