"""The speed gates on the real model: they need a machine that does nothing else.

pytest -m torture -s tests/lifecycle/test_gate_speed.py
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.promote.compare import compare
from paddock.lifecycle.run.benchmark import plan_of
from paddock.lifecycle.run.tune import _file_name
from paddock.measure.gate_report import Gate, GateReport
from paddock.measure.likelihood import CHUNK_TOKENS
from paddock.measure.race import Changes
from paddock.measure.tuning import Trial, Tuning
from paddock.model.artifact import Manifest
from paddock.model.hardware import this_machine
from tests.support.busy import busy_processes
from tests.support.engine import real_model
from tests.support.stores import A, B, publish

pytestmark = [pytest.mark.torture, pytest.mark.timeout(1800)]
SPEEDS = ("decode", "prefill", "time_to_first_token")
_CONTEXT = 1024


@pytest.fixture
def both(clients: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Clients, Manifest]:
    """The real model, promoted, and a candidate with the same weights in other bytes: a letter of its name differs."""
    monkeypatch.delenv("PADDOCK_THREADS")
    monkeypatch.setenv("PADDOCK_BENCHMARK_BUDGET_S", "180")
    clients = connect()
    clients.volume.prepare()
    content = real_model().read_bytes()
    at = content.index(b"general.name") + len(b"general.name") + 4 + 8
    changed = bytearray(content)
    changed[at] ^= 0x20  # the case of the first letter
    promoted = publish(clients.volume, A, {"model-Q4_1.gguf": content}, tmp_path)
    clients.volume.promote(promoted.id, reason="test")
    return clients, publish(clients.volume, B, {"model-Q4_1.gguf": bytes(changed)}, tmp_path)


def compared(clients: Clients, candidate: Manifest) -> tuple[GateReport, dict[str, Gate]]:
    report = compare(clients, candidate, context_tokens=_CONTEXT, limit_tokens=CHUNK_TOKENS)
    gates = {gate.name: gate for gate in report.gates}
    print()
    for name in SPEEDS:
        print(f"{name}: {gates[name].passed}: {gates[name].reason}")
    return report, gates


def store_tuning(clients: Clients, manifest: Manifest, changes: Changes) -> None:
    """A tuning of this machine that changes the plan so."""
    machine = this_machine()
    plan = plan_of(clients, manifest, _CONTEXT, machine=machine)
    trial = Trial(changes, None, None, 0)
    tuning = Tuning(1, "", "", machine.identity, "", 0, 0, 0, 1, 1, plan, changes, trial, trial, ())
    (file,) = manifest.files
    clients.volume.tuning.write(file.sha256, _file_name(machine), json.dumps(tuning.to_json()))


def test_the_same_weights_are_as_fast(both: tuple[Clients, Manifest]) -> None:
    report, gates = compared(*both)
    assert report.passed
    assert {gates[name].passed for name in SPEEDS} == {True}


def test_a_plan_with_one_thread_is_held_back_by_the_speed(both: tuple[Clients, Manifest]) -> None:
    clients, candidate = both
    if this_machine().cores < 2:
        pytest.skip("one core is all that this machine has")
    store_tuning(clients, candidate, {"n_threads": 1, "n_threads_batch": 1})
    report, gates = compared(clients, candidate)
    assert not report.passed
    failed = {gate.name for gate in report.failed}
    assert failed | {"decode"} == set(SPEEDS), (
        "decode stays as fast where one thread takes all of the memory's bandwidth"
    )
    assert gates["kl_ratio"].passed


def test_under_load_no_speed_decides(both: tuple[Clients, Manifest]) -> None:
    clients, candidate = both
    quick = replace(clients, settings=replace(clients.settings, benchmark_budget_s=10.0))
    with busy_processes(2):
        report, gates = compared(quick, candidate)
    assert {gates[name].passed for name in SPEEDS} == {None}
    assert all("other processes used" in gates[name].reason for name in SPEEDS)
    assert report.passed, "what cannot be decided does not hold back unless the catalog says so"
