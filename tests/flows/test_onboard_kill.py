"""SIGKILL at random moments of an onboarding: nothing half-made is ever visible, and little is fetched twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.onboard import onboard_model
from flows.run_local import run_local
from infra.local.hub import HubService
from infra.local.prefect_server import PrefectServer
from paddock.lifecycle.clients import Clients
from paddock.model.names import ModelName
from tests.support.fault_totals import Faults
from tests.support.segmented_model import SEGMENT_BYTES, assert_volume_consistent, segmented_model

NAME = "org/larger-GGUF"
MODEL = ModelName.parse(NAME)
RATE = 3 * 1024 * 1024
HEADER_BYTES = 1024 * 1024
"""The most that a preflight reads of a file with a small header."""
RUN_S = 12.0
"""About how long an undisturbed onboarding of this model takes: kills fall anywhere in it."""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.torture)])
def test_onboarding_survives_kill_9_at_random_moments(
    clients: Clients,
    hub: HubService,
    prefect_server: PrefectServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    faults: Faults,
    kills: int,
) -> None:
    faults.add(kills)
    content = segmented_model(1)
    assert len(content) > 8 * SEGMENT_BYTES
    hub.repository(NAME).commit({"larger-F32.gguf": content, "config.json": b"{}"})
    environment = {
        **os.environ,
        **prefect_server.environment,
        "PADDOCK_SEGMENT_BYTES": str(SEGMENT_BYTES),
        "PADDOCK_LIMIT_RATE": str(RATE),
    }
    command = [sys.executable, "-m", "paddock", "onboard", NAME, "--json"]
    moments = random.Random(20261122)  # the same moments in every run: what is found can be found again
    hub.reset_stats()
    killed, versions = 0, 1
    while killed < kills:
        with (tmp_path / "log").open("ab") as log:
            child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=log)
        try:
            child.wait(timeout=moments.uniform(1.0, RUN_S))
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
            killed += 1
        else:  # it was done before its moment came: there is something new to fetch
            versions += 1
            content = segmented_model(versions)
            hub.repository(NAME).commit({"larger-F32.gguf": content})
        assert_volume_consistent(clients, MODEL)

    monkeypatch.setenv("PADDOCK_SEGMENT_BYTES", str(SEGMENT_BYTES))
    state, last = run_local(onboard_model, model=NAME)
    assert (state, last.promoted) == ("Completed", True)
    assert_volume_consistent(clients, MODEL)
    assert (clients.volume.model_path(MODEL) / "larger-F32.gguf").read_bytes() == content
    # A kill can cost a segment's length ahead of the frontier, and what the sockets held by then. The preflight of each
    # run reads the header besides.
    preflights = (killed + versions) * HEADER_BYTES
    twice = hub.stats().bytes_sent[f"{NAME}/larger-F32.gguf"] - versions * len(content) - preflights
    print(f"{killed} kills, {versions} versions, {twice / SEGMENT_BYTES:.2f} segments fetched twice in all")
    assert twice <= killed * 1.5 * SEGMENT_BYTES
    assert list(clients.volume.partial.iterdir()) == []
