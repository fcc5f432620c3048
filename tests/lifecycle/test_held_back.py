"""What the gates hold back, and what they let through: a real model altered for the worse, and in other bytes.

The default run tries small models, all in one engine process. The full number, on the real model, is printed as a
table:

pytest -m torture -s tests/lifecycle/test_held_back.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from paddock.chat.comparison import compare_templates
from paddock.chat.template import ChatFormat
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.promote.bounds import BOUNDS
from paddock.lifecycle.promote.compare import compare
from paddock.lifecycle.promote.evidence import Evidence, PairedPredictions
from paddock.lifecycle.promote.gates import decide
from paddock.lifecycle.promote.template_gates import template_gates
from paddock.measure.answers import compare_answers, same_tensors
from paddock.measure.gate_report import Gate, GateReport
from paddock.measure.likelihood import CHUNK_TOKENS, predict
from paddock.measure.paired import compare_quality
from paddock.measure.quality_text import own_texts
from paddock.model.artifact import Manifest
from paddock.model.names import Revision
from tests.support import altered_models as altered
from tests.support.altered_models import Q8_0_BLOCK, RealModel
from tests.support.gguf import TYPE_Q8_0, tiny_llama
from tests.support.stores import A, id_of, publish

HELD_BACK, LET_THROUGH = 10, 40
_CONTEXT = 1024
_TOKENS = 5 * CHUNK_TOKENS
"""One chunk of each text."""


@dataclass(frozen=True)
class Kind:
    """A way to alter the promoted model, by a number, and the gates that have to hold it back."""

    name: str
    alter: Callable[[RealModel, RealModel, int], RealModel]
    gates: frozenset[str]


def _misnamed(_: RealModel, coarse: RealModel, number: int) -> RealModel:
    return altered.in_other_bytes(coarse, 4 * number)


def _halved(model: RealModel, _: RealModel, number: int) -> RealModel:
    return altered.with_halved_layer(model, 3 * number)


def _rope(model: RealModel, _: RealModel, number: int) -> RealModel:
    return altered.with_rope_base(model, 10 + number)


def _template(model: RealModel, _: RealModel, number: int) -> RealModel:
    return altered.dropping_long_system(model, 100 * 2**number)


KINDS = (
    Kind("a Q2_K in the name of Q8_0", _misnamed, frozenset({"kl_ratio"})),
    Kind("one layer's output scaled by a half", _halved, frozenset({"kl_ratio"})),
    Kind("a rope base ten times as large", _rope, frozenset({"kl_ratio", "agreement", "answers"})),
    Kind("a template that drops a long system message", _template, frozenset({"system_message"})),
)


def outcome(report: GateReport) -> str:
    return ", ".join(gate.name for gate in report.failed) or "passed"


class Shelf:
    """The real model in Q8_0, promoted on a volume, to which candidates are added and compared."""

    def __init__(self, clients: Clients, scratch: Path) -> None:
        self.clients, self._scratch = clients, scratch
        clients.volume.prepare()
        self.promoted = RealModel.read(altered.quantized(scratch, "Q8_0"))
        manifest = self._add(self.promoted, A)
        clients.volume.promote(manifest.id, reason="test")
        self._id = manifest.id

    def compare(self, candidate: RealModel) -> GateReport:
        manifest = self._add(candidate, Revision("b" * 40))
        try:
            report = compare(self.clients, manifest, context_tokens=_CONTEXT, limit_tokens=_TOKENS)
            assert self.clients.volume.promoted(manifest.model).default_id == self._id
            return report
        finally:
            self.clients.volume.remove(manifest.model, revision=manifest.revision)

    def _add(self, model: RealModel, revision: Revision) -> Manifest:
        path = model.write(self._scratch / "candidate.gguf")
        content = {"SmolLM2-Q8_0.gguf": path.read_bytes()}
        path.unlink()
        return publish(self.clients.volume, revision, content, self._scratch)


@pytest.fixture
def shelf(clients: Clients, tmp_path: Path) -> Shelf:
    return Shelf(clients, tmp_path)


@pytest.mark.torture
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_model_altered_for_the_worse_is_held_back_by_the_named_gates(
    shelf: Shelf, kind: Kind, tmp_path: Path
) -> None:
    coarse = altered.misnamed(tmp_path)
    reports = [shelf.compare(kind.alter(shelf.promoted, coarse, number)) for number in range(HELD_BACK)]
    print_row(kind.name, reports)
    assert all(kind.gates <= {gate.name for gate in report.failed} for report in reports), list(map(outcome, reports))


@pytest.mark.torture
@pytest.mark.timeout(7200)
def test_the_same_weights_in_other_bytes_are_let_through(shelf: Shelf) -> None:
    reports = [shelf.compare(altered.in_other_bytes(shelf.promoted, seed)) for seed in range(LET_THROUGH)]
    print_row("the same weights in other bytes", reports)
    assert [outcome(report) for report in reports] == ["passed"] * LET_THROUGH


def print_row(name: str, reports: list[GateReport]) -> None:
    gates = sorted({gate.name for report in reports for gate in report.failed})
    held = sum(not report.passed for report in reports)
    counts = {gate: sum(gate in {one.name for one in report.failed} for report in reports) for gate in gates}
    print(f"\n| {name} | {held} of {len(reports)} | {', '.join(f'{gate} {count}' for gate, count in counts.items())} |")
    for report in reports[:1]:
        for gate in report.gates:
            print(f"    {gate.name}: {gate.passed}: {gate.reason}")


def small_model(path: Path) -> RealModel:
    """A small model with two layers whose predictions are sharp enough to tell models apart."""
    file = tiny_llama(layers=2)
    for tensor in file.tensors:
        if tensor.kind == TYPE_Q8_0:
            blocks = np.frombuffer(tensor.content(), Q8_0_BLOCK).copy()
            blocks["scale"] *= np.float16(8)
            tensor.data = blocks.tobytes()
    return RealModel.read(file.write(path))


def test_small_models_altered_for_the_worse_are_held_back_and_other_bytes_are_let_through(tmp_path: Path) -> None:
    model = small_model(tmp_path / "promoted.gguf")
    candidates = {
        "halved": altered.with_halved_layer(model, 1),
        "rope": altered.with_rope_base(model),
        **{f"bytes {seed}": altered.in_other_bytes(model, seed) for seed in range(4)},
    }
    paths = [one.write(tmp_path / f"{name}.gguf") for name, one in candidates.items()]
    compared = predict(model.source, paths, own_texts(), threads=1, limit_tokens=CHUNK_TOKENS)
    held = {}
    for name, likelihoods in zip(candidates, compared.candidates, strict=True):
        quality = compare_quality(replace(compared, candidates=(likelihoods,)))
        held[name] = failed(decide(Evidence(predictions=PairedPredictions(quality, id_of(A))), BOUNDS))
    assert held == {
        "halved": {"kl_ratio", "agreement"},
        "rope": {"kl_ratio", "agreement"},
        **{f"bytes {seed}": set() for seed in range(4)},
    }
    rope = tmp_path / "rope.gguf"
    assert same_tensors(rope, model.source)
    answers = compare_answers(rope, model.source, same_tensors=True, threads=1)
    assert failed(decide(Evidence(answers=answers), BOUNDS)) == {"answers"}, "only metadata differs"


def test_a_template_that_drops_a_long_system_message_is_held_back(tmp_path: Path) -> None:
    model = small_model(tmp_path / "promoted.gguf")
    promoted, candidate = (
        ChatFormat(altered.template_of(one), "the GGUF", "the model brings it", "<s>", "</s>", ())
        for one in (model, altered.dropping_long_system(model, 3000))
    )
    gates = template_gates(compare_templates(candidate, promoted))
    assert failed(gates) == {"system_message"}
    (lost,) = (gate for gate in gates if gate.passed is False)
    assert "such as a system message of 3,001 characters: it is left out" in lost.reason


def failed(gates: tuple[Gate, ...]) -> set[str]:
    return {gate.name for gate in gates if gate.passed is False}
