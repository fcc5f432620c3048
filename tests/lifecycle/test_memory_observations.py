"""The memory of a load is recorded, and widens the margin of later plans if it exceeds the prediction."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from paddock.engine.facts import engine_version
from paddock.engine.oracle import MARGIN_BYTES
from paddock.lifecycle.assess.memory_observations import margin_for
from paddock.lifecycle.assess.preflight import preflight
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.run import benchmark
from paddock.model.artifact import Manifest
from paddock.model.hardware import this_machine
from paddock.planning.drift import KEPT_LOADS
from paddock.planning.plan import PlanRequest

MIB = 2**20


def margin(clients: Clients) -> int:
    engine = f"llama-cpp-python {engine_version()}"
    return margin_for(clients, "llama", engine, this_machine(), on_cpu=True)


def test_a_benchmark_records_its_memory_and_a_drift_widens_the_margin_of_the_next_plan(
    clients: Clients, pulled: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()  # the pull notes that the model was trained for less context than the default
    benchmark.benchmark(clients, pulled, 128)
    (note,) = (clients.settings.volume / ".paddock" / "reports" / "memory").iterdir()
    assert note.name.startswith("llama.llama-cpp-python-")
    (load,) = json.loads(note.read_text())
    assert load["predicted_bytes"] == load["engine_bytes"]
    assert load["system_bytes"] > load["engine_bytes"]  # a tiny model in a process of code
    assert margin(clients) == MARGIN_BYTES
    assert caplog.records == []

    path = str(clients.volume.snapshot_path(pulled.id))
    before = preflight(clients, path, PlanRequest(128)).plan
    note.write_text(json.dumps([{**load, "system_bytes": load["predicted_bytes"] + 2**31}] * 50))
    assert margin(clients) == round(1.25 * 2**31)
    tight = replace(this_machine(), ram_available_bytes=before.memory.total_bytes + MARGIN_BYTES + MIB)
    after = preflight(clients, path, PlanRequest(128), machine=tight).plan
    assert before.fits
    assert after.fits, "a note makes no model too large"
    assert after.given_up == ("it fits only without the margin of 2.5 GiB that earlier loads ask for",)
    assert after.memory.total_bytes >= before.memory.total_bytes
    note.write_text(json.dumps([{**load, "system_bytes": load["predicted_bytes"] + 2**40}] * 50))
    assert margin(clients) == MARGIN_BYTES, "no load took a terabyte more than predicted"
    note.write_text(json.dumps([load] * 50))
    benchmark.benchmark(clients, pulled, 128)
    assert len(json.loads(note.read_text())) == KEPT_LOADS


def test_observations_that_cannot_be_parsed_are_ignored(clients: Clients, pulled: Manifest) -> None:
    benchmark.benchmark(clients, pulled, 128)
    (note,) = (clients.settings.volume / ".paddock" / "reports" / "memory").iterdir()
    note.write_text("{")
    assert margin(clients) == MARGIN_BYTES
    benchmark.benchmark(clients, pulled, 128)
    assert len(json.loads(note.read_text())) == 1
