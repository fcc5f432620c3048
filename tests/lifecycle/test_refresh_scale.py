"""A catalog of thousands of entries, of which none changed: requests, bytes, time and memory of the plan.

The full numbers are behind `make torture`: they are printed, and held to their bounds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest

from infra.local.hub import LocalHub, serve_hub
from paddock.lifecycle.catalog import parse_catalog
from paddock.lifecycle.clients import connect
from paddock.lifecycle.upkeep.refresh.facts import plan_refresh
from paddock.store.volume import Volume
from tests.support.memory_directory import memory_directory
from tests.support.refreshed import catalog_of, promoted_model
from tests.support.tiny_hub import use_hub

SAMPLE = 40


def build(home: Path, count: int) -> list[str]:
    """Models on a Hub in `home`, all promoted on the volume there, and the entries of a catalog with them."""
    hub, volume = LocalHub(home / "hub"), Volume(home / "models")
    volume.prepare()
    for number in range(count):
        promoted_model(hub, volume, f"org/m{number:04}-GGUF", {"m-Q8_0.gguf": b"GGUF %d" % number})
    variants = ("auto", "Q8_0", "q8_0")
    return [f"model: org/m{number:04}-GGUF, variant: {variants[number % 3]}" for number in range(count)]


def test_entries_that_did_not_change_cost_a_request_each_and_no_bytes(
    monkeypatch: pytest.MonkeyPatch, memory: Path
) -> None:
    entries = build(memory, SAMPLE)
    with serve_hub(LocalHub(memory / "hub")) as hub:
        use_hub(monkeypatch, hub, memory)
        plan = plan_refresh(connect(), parse_catalog(catalog_of(*entries), "catalog.yaml"))
        stats = hub.stats()
    assert {one.action.value for one in plan.entries} == {"keep"}
    assert stats.total_requests == plan.requests == SAMPLE
    assert stats.total_bytes_sent == plan.bytes_read == plan.bytes == 0


@dataclass(frozen=True)
class Measured:
    requests: int
    bytes_sent: int
    seconds: float
    peak_mb: float


@pytest.mark.torture
@pytest.mark.timeout(600)
def test_a_thousand_entries_take_seconds_and_two_thousand_twice_as_long() -> None:
    measured = {count: measure(count) for count in (1000, 2000)}
    for count, one in measured.items():
        print(count, one)
        assert one.requests <= count
        assert one.bytes_sent == 0
        assert one.peak_mb < 400
    assert measured[1000].seconds < 20
    assert measured[2000].seconds / measured[1000].seconds <= 2.2


def measure(count: int) -> Measured:
    """Run `paddock refresh --dry-run` with a catalog of this size, and the Hub in a process of its own."""
    with memory_directory() as home:
        entries = build(home, count)
        (home / "catalog.yaml").write_bytes(catalog_of(*entries))
        with hub_process(home) as address:
            environment = {
                **os.environ,
                "HF_ENDPOINT": address,
                "HF_HOME": str(home / "huggingface"),
                "PADDOCK_VOLUME": str(home / "models"),
                "PADDOCK_CATALOG": str(home / "catalog.yaml"),
                "NO_PROXY": "127.0.0.1",
            }
            began = time.monotonic()
            command = [sys.executable, "-m", "paddock", "refresh", "--dry-run", "--json"]
            with (home / "plan.json").open("wb") as output:
                process = subprocess.Popen(command, stdout=output, env=environment)
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
            seconds = time.monotonic() - began
            assert process.returncode == 0
            with urlopen(f"{address}/_admin/stats") as response:
                stats = json.load(response)
        plan = json.loads((home / "plan.json").read_text())
    assert [entry["action"] for entry in plan["entries"]] == ["keep"] * count
    return Measured(stats["total_requests"], stats["total_bytes_sent"], seconds, usage.ru_maxrss / 1000)


@contextmanager
def hub_process(home: Path) -> Iterator[str]:
    """The address of the Hub in `home`, which serves in a process of its own."""
    ready = home / "ready"
    command = [sys.executable, "-m", "infra.local.hub", "--root", str(home / "hub"), "--ready-file", str(ready)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            while not ready.exists():
                assert process.poll() is None
                time.sleep(0.05)
            yield ready.read_text().strip()
        finally:
            process.terminate()
