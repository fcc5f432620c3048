"""Serving as a flow: a cancelled run ends what it answers, and leaves no engine and no lease."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelling

from infra.local.ports import free_ports
from infra.local.prefect_server import PrefectServer
from infra.local.workers import bootstrap, start_worker
from paddock.lifecycle.clients import Clients
from paddock.model.reference import artifact_key
from tests.support.serving import (
    REAL_MODEL_ID,
    any_complete,
    engines_of,
    has_restarted,
    promoted_model,
    under_load,
)
from tests.support.stores import MODEL
from tests.support.switching import make_switching_volume
from tests.support.waiting import wait_for

__all__ = ["promoted_model"]
RUN = """
import sys
from flows.serve import serve_model
serve_model(sys.argv[1], context_tokens=512, port=int(sys.argv[2]))
"""


@pytest.fixture
def environment(promoted_model: Clients, prefect_server: PrefectServer) -> dict[str, str]:
    own = {"PADDOCK_VOLUME": str(promoted_model.settings.volume), "PADDOCK_THREADS": "1"}
    return {**os.environ, **prefect_server.environment, **own}


def test_a_signalled_run_that_has_followed_a_promotion_completes_its_running_requests(
    client: SyncPrefectClient, environment: dict[str, str], tmp_path: Path
) -> None:
    """A worker cancels a run with SIGTERM to the process of the flow."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    volume = make_switching_volume(tmp_path)
    environment = {**environment, "PADDOCK_VOLUME": str(volume.clients.volume.root)}
    process = subprocess.Popen([sys.executable, "-c", RUN, str(MODEL), str(port)], env=environment)
    key = ArtifactFilter(key=ArtifactFilterKey(any_=[artifact_key("serving", MODEL, volume.manifests["a"].id.name)]))
    try:
        wait_for(partial(has_restarted, url, 0), limit_s=90)
        assert volume.in_use("a")
        volume.promote("b")
        wait_for(lambda: any("b" * 40 in str(one.data) for one in client.read_artifacts(artifact_filter=key)))
        with under_load(url) as answers:
            wait_for(partial(any_complete, answers))
            engines = engines_of(process.pid)
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    finally:
        process.kill()
        process.wait()
    assert [one for one in answers if not one.well_formed and not one.not_accepted] == []
    assert {one.status for one in answers if not one.complete} <= {0, 503}
    assert engines
    assert not any(one.is_running() for one in engines)
    assert not volume.in_use("a")
    assert not volume.in_use("b")
    found = client.read_artifacts(artifact_filter=key)
    assert [one.description for one in found if "is not served by this run any more: SIGTERM" in str(one.description)]
    found = [one for one in found if "any more" not in str(one.description)]
    assert all(url in (one.description or "") for one in found)
    assert any("a" * 40 in str(one.data) for one in found)


@pytest.mark.torture
def test_a_run_that_is_cancelled_on_its_worker_completes_its_running_requests(
    promoted_model: Clients,
    client: SyncPrefectClient,
    environment: dict[str, str],
    prefect_server: PrefectServer,
    tmp_path: Path,
) -> None:
    bootstrap(tmp_path, environment)
    worker = start_worker("paddock-serve", tmp_path, environment)
    try:
        (port,) = free_ports(1)
        url = f"http://127.0.0.1:{port}"
        deployment = client.read_deployment_by_name("serve-model/serve-gpu")
        parameters = {"model": REAL_MODEL_ID, "context_tokens": 512, "port": port}
        run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
        wait_for(partial(has_restarted, url, 0), limit_s=120)
        with under_load(url) as answers:
            wait_for(partial(any_complete, answers))
            began = time.monotonic()
            client.set_flow_run_state(run.id, Cancelling())
            wait_for(lambda: client.read_flow_run(run.id).state_type is StateType.CANCELLED, limit_s=60)
            print(f"cancelled in {time.monotonic() - began:.1f} s")
        worker.stop()
        states = [state.name for state in client.read_flow_run_states(run.id)]
        assert "Crashed" not in states
        assert states[-2:] == ["Cancelling", "Cancelled"]
        assert [one for one in answers if not one.well_formed and not one.not_accepted] == []
        assert {one.status for one in answers if not one.complete} <= {0, 503}
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")
    finally:
        worker.stop()
