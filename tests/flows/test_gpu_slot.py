"""One GPU and two models: runs on the GPU pool are measured one after the other. A processor stands in for the GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName
from prefect.client.schemas.objects import FlowRun, StateType

from infra.bootstrap import POOLS
from infra.local import workers
from infra.local.hub import HubService
from infra.local.prefect_server import PrefectServer
from infra.local.state import CHECKOUT
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.run.benchmark import read_benchmark
from paddock.model.names import ModelName
from tasks.gpu_pool import GPU_POOL
from tests.flows.test_onboard import roomy
from tests.support.tiny_hub import CARD, CONFIG

NAMES = ("org/one-GGUF", "org/two-GGUF")


@pytest.fixture
def gpu_worker(
    clients: Clients, client: SyncPrefectClient, prefect_server: PrefectServer, tmp_path: Path
) -> Iterator[dict[str, str]]:
    """Paddock's pools and deployments, and a worker of paddock-gpu; yields the environment of its clients."""
    environment = {**os.environ, **prefect_server.environment, "PYTHONPATH": str(CHECKOUT)}
    workers.bootstrap(tmp_path / "workers", environment)
    worker = workers.start_worker(GPU_POOL, tmp_path / "workers", environment)
    yield environment
    worker.stop()
    workers.delete_workers(prefect_server.url)
    for pool in POOLS:
        client.delete_work_pool(pool)


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_two_onboardings_at_once_are_measured_one_after_the_other(
    clients: Clients, hub: HubService, client: SyncPrefectClient, gpu_worker: dict[str, str]
) -> None:
    for name in NAMES:
        hub.repository(name).commit({"tiny-Q8_0.gguf": roomy(name), "README.md": CARD, "config.json": CONFIG})
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "paddock", "onboard", name, "--json"],
            env=gpu_worker,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in NAMES
    ]
    for one in started:
        out, log = one.communicate(timeout=800)
        assert one.returncode == 0, out + log

    in_the_pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[GPU_POOL]))
    runs = client.read_flow_runs(work_pool_filter=in_the_pool)
    assert sorted(run.name for run in runs) == [f"benchmark {name}:Q8_0" for name in NAMES]
    assert {run.state_type for run in runs} == {StateType.COMPLETED}
    (_, _, first_ended), (second_made, second_began, _) = sorted(map(moments, runs), key=lambda one: one[1])
    print(f"the second was asked for {(first_ended - second_made).total_seconds():.1f} s before the first ended,")
    print(f"and began {(second_began - first_ended).total_seconds():.1f} s after that")
    assert second_made < first_ended  # it had to wait
    assert second_began >= first_ended
    for name in NAMES:
        promoted = clients.volume.promoted(ModelName.parse(name)).default_id
        assert promoted is not None
        manifest = clients.volume.snapshot(promoted)
        assert manifest is not None
        measured = read_benchmark(clients, manifest)
        assert measured is not None
        assert measured.pool == GPU_POOL


def moments(run: FlowRun) -> tuple[datetime, datetime, datetime]:
    """When it was asked for, began and ended."""
    assert run.created is not None
    assert run.start_time is not None
    assert run.end_time is not None
    return run.created, run.start_time, run.end_time
