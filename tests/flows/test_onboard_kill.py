"""SIGKILL at random moments of an onboarding: nothing half-made is ever visible, and little is fetched twice."""

from __future__ import annotations

import os
import random
import subprocess

import pytest

from flows.onboard import onboard_model
from flows.run_local import run_local
from infra.local.hub import HubService
from infra.local.prefect_server import PrefectServer
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.onboard import InProcess, OnboardRequest, onboard
from paddock.lifecycle.steps import PlainRunner
from paddock.model.names import ModelName
from paddock.model.reference import Reference
from tests.support.fault_totals import Faults
from tests.support.forked import Command
from tests.support.segmented_model import SEGMENT_BYTES, assert_volume_consistent, segmented_model

NAME = "org/larger-GGUF"
MODEL = ModelName.parse(NAME)
RATE = 3 * 1024 * 1024
HEADER_BYTES = 1024 * 1024
"""The most that a preflight reads of a file with a small header."""
RUN_S = 12.0
"""About how long an undisturbed onboarding of this model takes: kills fall anywhere in it."""


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kills", "recorded"),
    [
        pytest.param(1, False, id="1", marks=pytest.mark.torture),
        pytest.param(10, True, id="10, with Prefect", marks=pytest.mark.torture),
    ],
)
def test_onboarding_survives_kill_9_at_random_moments(
    clients: Clients,
    hub: HubService,
    prefect_server: PrefectServer,
    monkeypatch: pytest.MonkeyPatch,
    faults: Faults,
    kills: int,
    recorded: bool,
) -> None:
    faults.add(kills)
    content = segmented_model(1)
    assert len(content) > 8 * SEGMENT_BYTES
    hub.repository(NAME).commit({"larger-F32.gguf": content, "config.json": b"{}"})
    environment = {
        **os.environ,
        **prefect_server.environment,
        **({} if recorded else {"PREFECT_API_URL": ""}),
        "PADDOCK_SEGMENT_BYTES": str(SEGMENT_BYTES),
        "PADDOCK_LIMIT_RATE": str(RATE),
    }
    moments = random.Random(20261122)  # the same moments in every run: what is found can be found again
    hub.reset_stats()
    killed, versions = 0, 1
    while killed < kills:
        with Command("onboard", NAME, "--json", env=environment) as child:
            try:
                child.wait(timeout=moments.uniform(1.0, RUN_S))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                killed += 1
            else:  # it was done before its moment came: there is something new to fetch
                versions += 1
                content = segmented_model(versions)
                hub.repository(NAME).commit({"larger-F32.gguf": content})
        assert_volume_consistent(clients, MODEL)

    monkeypatch.setenv("PADDOCK_SEGMENT_BYTES", str(SEGMENT_BYTES))
    if recorded:
        state, last = run_local(onboard_model, model=NAME)
        assert state == "Completed"
    else:
        last = onboard(clients, InProcess(PlainRunner(clients)), OnboardRequest(Reference(MODEL)))
    assert last.promoted
    assert_volume_consistent(clients, MODEL)
    assert (clients.volume.model_path(MODEL) / "larger-F32.gguf").read_bytes() == content
    # A kill can cost a segment's length ahead of the frontier, and what the sockets held by then. The preflight of each
    # run reads the header besides.
    preflights = (killed + versions) * HEADER_BYTES
    twice = hub.stats().bytes_sent[f"{NAME}/larger-F32.gguf"] - versions * len(content) - preflights
    print(f"{killed} kills, {versions} versions, {twice / SEGMENT_BYTES:.2f} segments fetched twice in all")
    assert twice <= killed * 1.5 * SEGMENT_BYTES
    assert list(clients.volume.partial.iterdir()) == []
