"""The events of the product: which step has which, what they carry, and that they stay small."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from paddock.errors import ModelRejected
from paddock.lifecycle.acquire.plan import plan_files
from paddock.lifecycle.acquire.publish import Published
from paddock.lifecycle.acquire.publish import publish as publish_step
from paddock.lifecycle.assess.validate import Structure, check_structure
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.promote.approval import Approval, Decision, record_approval
from paddock.lifecycle.promote.compare import compare
from paddock.lifecycle.promote.promote import promote_snapshot, roll_back
from paddock.lifecycle.upkeep.scrub import Scrubbed, scrub
from paddock.lifecycle.upkeep.verify import VerifiedFile
from paddock.measure.gate_report import Gate, GateReport
from paddock.model.artifact import Manifest
from paddock.model.finding import Finding, Severity, Verdict
from paddock.model.reference import Reference
from paddock.settings import Settings
from paddock.store.history import Promotion
from tasks import events
from tasks.events import EventName, ModelEvent, events_of, rejection_of
from tasks.recorders import StepRun
from tests.support.pages import code, rows, section, text_of
from tests.support.stores import MODEL, Q8, A, B, publish


@pytest.fixture
def clients(tmp_path: Path) -> Clients:
    clients = connect(Settings(volume=tmp_path / "models"))
    clients.volume.prepare()
    return clients


@pytest.fixture
def candidate(clients: Clients, tmp_path: Path) -> Manifest:
    return publish(clients.volume, A, {"m.gguf": b"a"}, tmp_path)


def run_of(clients: Clients, **arguments: Any) -> StepRun:
    return StepRun(clients, arguments, "this-machine", 0.0)


def report(candidate: Manifest, *, passed: bool | None) -> GateReport:
    gate = Gate("decode", "at least 0.9", 1.0, 2.0, 0.5, None, passed, "it decodes at half the speed")
    return GateReport(str(candidate.id), "org/name:Q8_0@bbbb", None, (gate,), False, "engine", "now", 1.0)


def damaged(candidate: Manifest, path: str, *, ok: bool) -> VerifiedFile:
    (file,) = candidate.files
    return VerifiedFile(candidate.id, path, 1, file.sha256, ok, (0,), "segment 0 differs", 64 if ok else 0)


def scrubbed(*files: VerifiedFile) -> Scrubbed:
    return Scrubbed("the volume", 2, 2, 2, files, (), True, 1.0)


def promotion(**changes: Any) -> Promotion:
    change = Promotion("1", Q8, A, B, Q8, None, datetime.now(UTC), "better", "me@host")
    return replace(change, **changes)


def test_a_published_snapshot_is_available(clients: Clients, candidate: Manifest) -> None:
    (event,) = events_of(publish_step, run_of(clients), Published(candidate, ()))
    assert event.name is EventName.AVAILABLE
    assert event.payload == {"size_bytes": 1, "fetched_bytes": 0, "verdict": "accept"}
    assert event.resource("0123") == {
        "prefect.resource.id": "paddock.model.org/name",
        "prefect.resource.name": "org/name:Q8_0@aaaaaaaa",
        "paddock.volume": "0123",
        "paddock.variant": "Q8_0",
        "paddock.revision": A,
    }


@pytest.mark.parametrize(("passed", "count"), [(False, 1), (None, 0), (True, 0)])
def test_a_candidate_that_fails_a_gate_is_held_back(
    clients: Clients, candidate: Manifest, passed: bool | None, count: int
) -> None:
    found = events_of(compare, run_of(clients, manifest=candidate), report(candidate, passed=passed))
    assert [event.name for event in found] == [EventName.HELD_BACK] * count
    for event in found:
        assert event.payload["failed_gates"] == ["decode"]
        assert "half the speed" in event.payload["reason"]


def test_a_comparison_of_what_is_promoted_holds_nothing_back(clients: Clients, candidate: Manifest) -> None:
    clients.volume.promote(candidate.id, reason="a test")
    assert events_of(compare, run_of(clients, manifest=candidate), report(candidate, passed=False)) == []


@pytest.mark.parametrize(
    ("answer", "names"), [(Decision.APPROVED, []), (Decision.DECLINED, ["held-back"]), (Decision.NONE, ["held-back"])]
)
def test_an_answer_that_is_no_approval_holds_a_model_back(
    clients: Clients, candidate: Manifest, answer: Decision, names: list[str]
) -> None:
    approval = Approval.now(answer, reason="too slow", by="Ann")
    found = events_of(record_approval, run_of(clients, manifest=candidate), approval)
    assert [event.name.rpartition(".")[2] for event in found] == names


def test_a_promotion_that_changes_nothing_has_no_event(clients: Clients, candidate: Manifest) -> None:
    run = run_of(clients, id=candidate.id)
    (event,) = events_of(promote_snapshot, run, promotion(forced=True, failed_gates=("decode",)))
    assert (event.name, event.payload["failed_gates"], event.payload["previous"]) == (EventName.PROMOTED, ["decode"], B)
    assert events_of(promote_snapshot, run, promotion(previous=A, previous_default=Q8)) == []


def test_a_rollback_names_the_revision_that_is_promoted_again(clients: Clients) -> None:
    (event,) = events_of(roll_back, run_of(clients, wanted=Reference(MODEL)), promotion(rollback=True))
    assert event.name is EventName.ROLLED_BACK
    assert event.resource("0")["paddock.revision"] == A


def test_damage_that_stays_is_told_from_damage_that_was_repaired(clients: Clients, candidate: Manifest) -> None:
    found = scrubbed(damaged(candidate, "m.gguf", ok=True), damaged(candidate, "n.gguf", ok=False))
    (event,) = events_of(scrub, run_of(clients), found)
    assert (event.name, event.payload["files"]) == (EventName.DAMAGED, ["n.gguf"])
    (event,) = events_of(scrub, run_of(clients), scrubbed(damaged(candidate, "m.gguf", ok=True)))
    assert (event.name, event.payload["repaired_bytes"]) == (EventName.REPAIRED, 64)
    assert events_of(scrub, run_of(clients), None) == []


def test_a_model_with_a_rejected_structure_is_rejected(clients: Clients, candidate: Manifest) -> None:
    finding = Finding("gguf.magic", Severity.REJECT, "it is no GGUF")
    structure = Structure(None, (finding,))  # type: ignore[arg-type] # the audit is not read
    assert structure.verdict is Verdict.REJECT
    (event,) = events_of(check_structure, run_of(clients, manifest=candidate), structure)
    assert event.payload == {"reason": "it is no GGUF", "rules": ["gguf.magic"]}


def test_a_step_that_raises_names_the_model_that_it_was_about(clients: Clients, candidate: Manifest) -> None:
    error = ModelRejected("no")
    by_manifest = rejection_of(run_of(clients, manifest=candidate), error)
    by_name = rejection_of(run_of(clients, wanted=Reference(MODEL)), error)
    assert by_manifest is not None
    assert by_name is not None
    assert (by_manifest.id, by_name.id, by_name.model) == (candidate.id, None, MODEL)
    assert "paddock.variant" not in by_name.resource("0")
    assert rejection_of(run_of(clients), error) is None


def test_most_steps_have_no_event(clients: Clients) -> None:
    assert events_of(plan_files, run_of(clients), object()) == []


def test_a_payload_is_bounded_whatever_it_is_about() -> None:
    payload = events._bounded({"reason": "x" * 10_000, "files": ["y" * 10_000] * 1000, "bytes": 7, "none": None})
    assert len(json.dumps(payload)) < 60_000
    assert (payload["bytes"], payload["none"]) == (7, None)


def test_a_scrub_of_a_ruined_volume_has_a_bounded_number_of_events(clients: Clients, candidate: Manifest) -> None:
    file = damaged(candidate, "m.gguf", ok=False)
    many = [replace(file, id=replace(file.id, revision=f"{number:040x}")) for number in range(1000)]  # type: ignore[arg-type]
    assert len(events_of(scrub, run_of(clients), scrubbed(*many))) == events.MOST_EVENTS


# The page


def test_the_events_table_lists_every_event() -> None:
    assert [code(cells[0]) for cells in rows(section(text_of("events.md"), "## Events"))] == [
        str(name) for name in EventName
    ]


def test_the_labels_table_lists_every_label(clients: Clients, candidate: Manifest) -> None:
    labels = ModelEvent.of(EventName.AVAILABLE, candidate.id).resource("0")
    assert {code(cells[0]) for cells in rows(section(text_of("events.md"), "## Labels"))} == set(labels)
