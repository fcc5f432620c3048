"""The gates of real small models on a volume: what is compared with what, and what cannot be."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from paddock.lifecycle.clients import Clients
from paddock.lifecycle.gate_reports import read_gates
from paddock.lifecycle.promote import measurements
from paddock.lifecycle.promote.compare import compare
from paddock.lifecycle.promote.evidence import Missing, NotFinite, PairedPredictions
from paddock.lifecycle.promote.measurements import MeasuredSnapshot
from paddock.lifecycle.promote.reference import choose_reference, read_weights
from paddock.measure.gate_report import GateReport
from paddock.measure.likelihood import CHUNK_TOKENS
from paddock.model.artifact import Manifest
from paddock.model.reference import Variant
from tests.support.gguf import BOOL, STRING, TYPE_F32, Gguf, tiny_llama
from tests.support.other_kinds import bert
from tests.support.program import Paddock, paddock
from tests.support.stores import A, B, publish
from tests.support.tiny_hub import rejected_model

__all__ = ["paddock"]
OUTCOMES = {True: "passed", False: "failed", None: "undecided"}
TEMPLATE = {"template", "system_message", "tool_call", "history"}
SPEEDS = {"decode", "prefill", "time_to_first_token"}


class Shelf:
    """Snapshots of one model on a volume: one file in a variant of a revision."""

    def __init__(self, clients: Clients, scratch: Path) -> None:
        self.clients = clients
        self._scratch = scratch
        clients.volume.prepare()

    def add(self, file: Gguf | bytes, revision: str = A, variant: str = "Q8_0", *, promote: bool = False) -> Manifest:
        content = file.to_bytes() if isinstance(file, Gguf) else file
        manifest = publish(
            self.clients.volume,
            revision,  # type: ignore[arg-type]  # one of the constants
            {f"tiny-{variant}.gguf": content},
            self._scratch,
            variant=Variant(variant),
        )
        if promote:
            self.clients.volume.promote(manifest.id, reason="test")
        return manifest

    def measured(self, manifest: Manifest) -> MeasuredSnapshot:
        path = self.clients.volume.snapshot_path(manifest.id) / manifest.files[0].path
        return MeasuredSnapshot(manifest, read_weights(manifest, path.parent), path)


@pytest.fixture
def shelf(clients: Clients, tmp_path: Path) -> Shelf:
    return Shelf(clients, tmp_path)


def quick(clients: Clients, manifest: Manifest) -> GateReport:
    return compare(clients, manifest, context_tokens=128, limit_tokens=CHUNK_TOKENS)


def outcomes(report: GateReport) -> dict[str, str]:
    """The outcome of each gate, but for those of the chat template."""
    return {gate.name: OUTCOMES[gate.passed] for gate in report.gates if gate.name not in TEMPLATE}


def with_other_weights(file: Gguf) -> Gguf:
    """The same model with one layer's output scaled by eight."""
    tensor = file.tensor("blk.0.ffn_down.weight")
    tensor.kind = TYPE_F32
    values = struct.unpack(f"<{32 * 64}f", tensor.content())
    tensor.data = struct.pack(f"<{32 * 64}f", *(value * 8 for value in values))
    return file


def test_the_same_weights_in_other_bytes_pass_against_the_best_quantization(shelf: Shelf) -> None:
    shelf.add(tiny_llama(), promote=True)
    best = shelf.add(tiny_llama(kind=TYPE_F32), variant="F32")
    candidate = shelf.add(tiny_llama().set("general.author", STRING, "somebody"), B)
    report = quick(shelf.clients, candidate)
    assert report.reference == str(best.id)
    found = outcomes(report)
    assert {name: found.pop(name) for name in SPEEDS}.keys() == SPEEDS, "whether they decide depends on the machine"
    assert set(found) == {"audit", "finite", "kl_ratio", "agreement", "answers", "memory"}
    assert set(found.values()) == {"passed"}
    ratio = next(gate for gate in report.gates if gate.name == "kl_ratio")
    assert (ratio.ratio, ratio.ci95) == (1, (1, 1))
    assert read_gates(shelf.clients, candidate) == report


@pytest.mark.torture
def test_other_weights_are_held_back_by_quality(shelf: Shelf) -> None:
    promoted = shelf.measured(shelf.add(tiny_llama(), promote=True))
    candidate = shelf.measured(shelf.add(with_other_weights(tiny_llama()), B))
    found = measurements.predictions(shelf.clients, candidate, promoted, limit_tokens=CHUNK_TOKENS)
    assert isinstance(found, PairedPredictions)
    assert found.reference == promoted.manifest.id
    assert found.quality.kl_ratio.low > 1.5
    assert not found.reference_is_coarser or found.quality.perplexity_ratio.value != 1


@pytest.mark.parametrize("broken", [False, pytest.param(True, marks=pytest.mark.torture)], ids=["vocabulary", "logits"])
def test_another_vocabulary_and_logits_that_are_not_finite_are_the_candidates_fault(shelf: Shelf, broken: bool) -> None:
    promoted = shelf.measured(shelf.add(tiny_llama(), promote=True))
    other = not_finite() if broken else tiny_llama().set("tokenizer.ggml.add_bos_token", BOOL, False)
    candidate = shelf.measured(shelf.add(other, B))
    found = measurements.predictions(shelf.clients, candidate, promoted, limit_tokens=CHUNK_TOKENS)
    assert isinstance(found, NotFinite if broken else Missing)
    assert found.by_candidate
    assert ("not finite" if broken else "different vocabularies") in found.reason


def not_finite() -> Gguf:
    broken = tiny_llama()
    norm = broken.tensor("output_norm.weight")
    norm.data = struct.pack(f"<{norm.shape[0]}f", *[float("nan")] * norm.shape[0])
    return broken


def test_a_candidate_that_the_engine_does_not_run_is_measured_no_further(shelf: Shelf) -> None:
    shelf.add(tiny_llama(), promote=True)
    report = quick(shelf.clients, shelf.add(not_finite(), B))
    found = outcomes(report)
    assert found == {"audit": "passed", "finite": "failed", "memory": "undecided"}
    assert not report.passed
    assert report.line.startswith("held back by finite: the engine does not run it: the model was loaded, but gives")


def test_a_rejected_candidate_is_not_loaded(shelf: Shelf) -> None:
    shelf.add(tiny_llama(), promote=True)
    report = quick(shelf.clients, shelf.add(rejected_model(), B))
    assert outcomes(report) == {"audit": "failed"}
    assert report.gates[0].reason.startswith("it is rejected by gguf.")


def test_the_promoted_files_pass_at_once(shelf: Shelf) -> None:
    promoted = shelf.add(tiny_llama(), promote=True)
    for candidate in (promoted, shelf.add(tiny_llama(), B)):
        report = quick(shelf.clients, candidate)
        assert outcomes(report) == {"weights": "passed"}
        assert report.gates[0].reason == "its files are those of org/name:Q8_0@aaaaaaaa, which is promoted"


def test_where_nothing_is_promoted_only_the_candidate_itself_is_judged(shelf: Shelf) -> None:
    report = quick(shelf.clients, shelf.add(tiny_llama()))
    found = outcomes(report)
    assert found == {"audit": "passed", "finite": "passed", "memory": "passed"}
    assert (report.promoted, report.reference) == (None, None)
    assert "nothing is promoted yet" in report.line


@pytest.mark.torture
def test_a_promoted_snapshot_that_cannot_be_read_decides_nothing(shelf: Shelf) -> None:
    shelf.add(b"GGUF" + bytes(100), promote=True)
    report = quick(shelf.clients, shelf.add(tiny_llama(), B))
    found = outcomes(report)
    assert report.passed
    assert {name for name, outcome in found.items() if outcome == "undecided"} >= {"kl_ratio", "agreement", *SPEEDS}
    assert {gate.reason.split(":")[0] for gate in report.undecided} == {"org/name"}
    assert all("cannot be compared with" in gate.reason for gate in report.undecided)


@pytest.mark.torture
def test_an_embedding_model_has_the_gates_that_apply(shelf: Shelf) -> None:
    shelf.add(bert(), promote=True)
    report = quick(shelf.clients, shelf.add(bert().set("general.author", STRING, "somebody"), B))
    found = outcomes(report)
    assert set(found) == {"audit", "finite", "memory", "prefill", "time_to_first_token"}
    assert {found[name] for name in ("audit", "finite", "memory")} == {"passed"}


def test_the_reference_is_the_best_of_the_promoted_revision_and_never_the_candidate(shelf: Shelf) -> None:
    clients = shelf.clients
    promoted = shelf.add(tiny_llama(), promote=True)
    weights = shelf.measured(promoted).weights
    candidate = shelf.add(tiny_llama(kind=TYPE_F32), B, "F32")
    of_candidate = shelf.measured(candidate).weights
    assert of_candidate.bits == 32
    assert 8 < weights.bits < 16

    def reference() -> Manifest:
        return choose_reference(clients, of_candidate, promoted, weights)

    assert reference() == promoted, "the candidate's own revision may hold other weights"
    shelf.add(tiny_llama(kind=TYPE_F32), A, "the-candidate")
    shelf.add(tiny_llama(layers=2, kind=TYPE_F32), A, "larger")
    shelf.add(b"GGUF" + bytes(100), A, "broken")
    assert reference() == promoted
    best = shelf.add(with_other_weights(tiny_llama(kind=TYPE_F32)), A, "F32")
    assert reference() == best


def test_the_command_exits_with_2_where_a_gate_does_not_pass(shelf: Shelf, paddock: Paddock) -> None:
    promoted = shelf.add(tiny_llama(), promote=True)
    rejected = shelf.add(rejected_model(), B)
    result = paddock("compare", str(rejected.id), "--with", str(promoted.id), "--json")
    assert result.status == 2
    assert result.json == quick(shelf.clients, rejected).to_json() | {
        name: result.json[name] for name in ("measured_at", "seconds")
    }
    assert (result.json["passed"], result.json["gates"][0]["name"]) == (False, "audit")
    table = paddock("compare", str(rejected.id))
    assert table.status == 2
    assert "held back by audit" in table.stdout
    assert paddock("compare", str(promoted.id)).status == 0
