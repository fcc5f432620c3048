"""SIGKILL at random moments of a refresh: the next one finishes what is left, and fetches little twice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.local.hub import HubService
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.upkeep.refresh.outcome import RefreshOutcome
from paddock.model.names import ModelName
from paddock.model.reference import Reference
from tests.support.brief_refresh import refresh_briefly
from tests.support.fault_totals import Faults
from tests.support.refreshed import UNBOUNDED_GATES, catalog_of
from tests.support.segmented_model import SEGMENT_BYTES, assert_volume_consistent, changed_model, segmented_model

FILE = "larger-F32.gguf"
RATE = 12 * 1024 * 1024
HEADER_BYTES = 1024 * 1024
"""The most that a preflight reads of a file with a small header; it is kept on the machine."""
SAMPLES_BYTES = 64 * 1024
"""The samples of the tensors that are compared with the promoted file."""
RUN_S = 90.0
"""About how long an undisturbed refresh of five models by the command takes."""
BRIEF = ("-m", "tests.support.brief_refresh")
COMMAND = ("-m", "paddock", "refresh", "--json")


@dataclass(frozen=True)
class Wanted:
    """The new revision of a model, and the bytes of it that are not on the volume yet."""

    content: bytes
    missing_bytes: int


def new_models(hub: HubService, names: list[str]) -> dict[str, Wanted]:
    wanted = {}
    for number, name in enumerate(names):
        content = segmented_model(number)
        hub.repository(name).commit({FILE: content, "config.json": b"{}"})
        wanted[name] = Wanted(content, len(content))
    return wanted


def changed_models(hub: HubService, names: list[str]) -> dict[str, Wanted]:
    """Models that are promoted, and of which a new revision has other tensors."""
    new_models(hub, names)
    wanted = {}
    for number, name in enumerate(names):
        pull(connect(), Reference(ModelName.parse(name)))
        content, changed_bytes = changed_model(number)
        hub.repository(name).commit({FILE: content})
        wanted[name] = Wanted(content, changed_bytes + SAMPLES_BYTES)
    return wanted


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("make", "program", "models", "kills"),
    [
        pytest.param(new_models, BRIEF, 1, 1, id="a sample, without measurements"),
        pytest.param(changed_models, BRIEF, 1, 1, id="a changed one, without measurements"),
        pytest.param(new_models, BRIEF, 5, 10, id="five models, without measurements", marks=pytest.mark.torture),
        pytest.param(new_models, COMMAND, 5, 10, id="five models, by the command", marks=pytest.mark.torture),
        pytest.param(changed_models, BRIEF, 5, 10, id="five changed, without measurements", marks=pytest.mark.torture),
        pytest.param(changed_models, COMMAND, 5, 10, id="five changed, by the command", marks=pytest.mark.torture),
    ],
)
def test_a_refresh_survives_kill_9_at_random_moments(
    clients: Clients,
    hub: HubService,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    faults: Faults,
    make: Callable[[HubService, list[str]], dict[str, Wanted]],
    program: tuple[str, ...],
    models: int,
    kills: int,
) -> None:
    faults.add(kills)
    names = [f"org/larger-{number}-GGUF" for number in range(models)]
    monkeypatch.setenv("PADDOCK_SEGMENT_BYTES", str(SEGMENT_BYTES))
    monkeypatch.setenv("PADDOCK_CONNECTIONS", "4")
    wanted = make(hub, names)
    catalog = tmp_path / "catalog.yaml"
    catalog.write_bytes(
        catalog_of(*(f"model: {name}, context_tokens: 512, gates: {UNBOUNDED_GATES}" for name in names))
    )
    monkeypatch.setenv("PADDOCK_CATALOG", str(catalog))
    slowly = {**os.environ, "PADDOCK_LIMIT_RATE": str(RATE)}
    hub.reset_stats()
    moments = random.Random(20261130)  # the same in every run
    killed = 0
    while killed < kills:
        # By the bytes that the Hub has sent of the weights, or by time, for what comes after the transfers.
        sent = hub.stats().total_bytes_sent
        left = sum(one.missing_bytes for one in wanted.values()) - sent
        after_bytes = moments.randrange(left) if left > 0 and killed % 3 < 2 else None
        after_s = moments.uniform(1.0, RUN_S)
        with (tmp_path / "log").open("ab") as log:
            child = subprocess.Popen([sys.executable, *program], env=slowly, stdout=subprocess.DEVNULL, stderr=log)
        began = time.monotonic()
        while child.poll() is None and (
            time.monotonic() - began < after_s
            if after_bytes is None
            else hub.stats().total_bytes_sent - sent <= after_bytes
        ):
            time.sleep(0.02)
        child.kill()
        child.wait()
        killed += 1
        for name in names:
            assert_volume_consistent(clients, ModelName.parse(name))

    last = refresh_briefly(connect())
    assert {outcome.outcome for outcome in last.entries} <= {RefreshOutcome.PROMOTED, RefreshOutcome.UNCHANGED}
    for name, one in wanted.items():
        model = ModelName.parse(name)
        assert_volume_consistent(clients, model)
        assert (clients.volume.model_path(model) / FILE).read_bytes() == one.content
        twice = hub.stats().bytes_sent[f"{name}/{FILE}"] - one.missing_bytes - HEADER_BYTES
        print(f"{name}: {killed} kills, {twice / SEGMENT_BYTES:.2f} segments fetched twice")
        # A window of a segment is in flight at each kill, and what the sockets held.
        assert twice <= killed * 1.5 * SEGMENT_BYTES
    assert list(clients.volume.partial.iterdir()) == []
