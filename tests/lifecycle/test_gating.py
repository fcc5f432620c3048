"""Gates inside the life of a model: what is worse than the promoted snapshot is not promoted, unless it is forced."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import pytest

from infra.local.hub import HubService
from paddock.errors import BadSetting, GateNotPassed, PromotionConflict
from paddock.lifecycle.acquire.acquire import acquire
from paddock.lifecycle.acquire.publish import Published
from paddock.lifecycle.assess.validate import Validation
from paddock.lifecycle.catalog import GATES
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.gate_reports import record_gates
from paddock.lifecycle.onboard import InProcess, OnboardRequest, onboard
from paddock.lifecycle.promote.bounds import BOUND_NAMES
from paddock.lifecycle.promote.gate_rules import GateRules
from paddock.lifecycle.promote.gating import in_process
from paddock.lifecycle.promote.promote import PromoteResult, promote, rollback
from paddock.lifecycle.steps import PlainRunner
from paddock.measure.gate_report import Gate, GateReport
from paddock.model.artifact import Manifest
from paddock.model.markdown import as_text
from paddock.model.names import Revision
from paddock.model.reference import Reference, Variant
from tests.support.gguf import U32, tiny_llama
from tests.support.program import Paddock, paddock
from tests.support.stores import Q4, Q8, A, B, C, publish
from tests.support.tiny_hub import MODEL, NAME, tiny_model, validate_snapshot

__all__ = ["paddock"]


MOST_TOKENS = 1_048_576


def altered_model() -> bytes:
    """The tiny model with other embeddings: it predicts other tokens."""
    file = tiny_llama()
    row = file.tensor("token_embd.weight")
    draw, blocks = random.Random(1), bytearray(row.content())
    for start in range(2, len(blocks), 34):  # a block of Q8_0: its scale, and 32 weights
        blocks[start : start + 32] = draw.randbytes(32)
    row.data = bytes(blocks)
    return file.to_bytes()


def put(clients: Clients, revision: Revision, content: bytes, **more: object) -> Manifest:
    clients.volume.prepare()
    return publish(clients.volume, revision, {"tiny-Q8_0.gguf": content}, Path(), model=MODEL, **more)  # type: ignore[arg-type]


@pytest.fixture
def rivals(clients: Clients) -> tuple[Manifest, Manifest]:
    """The promoted snapshot, and a worse candidate."""
    promoted, candidate = put(clients, A, tiny_model()), put(clients, B, altered_model())
    clients.volume.promote(promoted.id, reason="the first")
    return promoted, candidate


def report_on(candidate: Manifest, promoted: Manifest, passed: bool | None) -> GateReport:
    gate = Gate("kl_ratio", "at most 1.5", 0.2, 0.1, 2.0, (1.8, 2.2), passed, "it diverges twice as far")
    names = str(candidate.id), str(promoted.id), str(promoted.id)
    return GateReport(*names, (gate,), False, "llama-cpp-python", "2026-01-01T00:00:00+00:00", 1.0)


@dataclass
class Given:
    """Compares nothing: it returns a given outcome, and remembers what it was asked for."""

    passed: bool | None = True
    meanwhile: Callable[[], object] = lambda: None
    asked: list[tuple[Manifest, Manifest, GateRules]] = field(default_factory=list)

    def __call__(self, candidate: Manifest, promoted: Manifest, rules: GateRules) -> GateReport:
        self.asked.append((candidate, promoted, rules))
        self.meanwhile()
        return report_on(candidate, promoted, self.passed)


def promote_given(
    clients: Clients, manifest: Manifest, given: Given, announced: list[str] | None = None
) -> PromoteResult:
    announce = (announced if announced is not None else []).append
    return promote(PlainRunner(clients), manifest.id.reference, reason="a test", comparer=given, announce=announce)


def links_and_history(clients: Clients) -> tuple[dict[str, str], bytes]:
    root = clients.volume.root
    links = {path.name: str(path.readlink()) for path in root.iterdir() if path.is_symlink()}
    return links, (root / ".paddock" / "history" / f"{MODEL.slug}.jsonl").read_bytes()


def test_what_the_gates_hold_back_is_promoted_by_force_alone_and_the_history_says_so(
    clients: Clients, rivals: tuple[Manifest, Manifest], paddock: Paddock
) -> None:
    promoted, candidate = rivals
    record_gates(clients, candidate, report_on(candidate, promoted, False))
    before = links_and_history(clients)
    refused = paddock("promote", str(candidate.id), "--json")
    assert (refused.status, refused.json["error"]) == (2, "gate-not-passed")
    assert "was held back by kl_ratio: it diverges twice as far" in refused.json["message"]
    assert f"`paddock promote {candidate.id} --force --reason WHY`" in refused.json["cure"]
    assert links_and_history(clients) == before

    unreasoned = paddock("promote", str(candidate.id), "--force", "--json")
    assert (unreasoned.status, unreasoned.json["error"]) == (3, "bad-setting")
    assert links_and_history(clients) == before

    forced = paddock("promote", str(candidate.id), "--force", "--reason", "it is wanted", "--json").json
    assert (forced["forced"], forced["revision"], forced["previous"]) == (True, B, A)
    why = "it is wanted (forced, although held back by kl_ratio)"
    assert why in paddock("history", NAME).stdout
    assert paddock("history", NAME, "--json").json["history"][-1]["failed_gates"] == ["kl_ratio"]
    dossier = clients.volume.read_report(candidate.id, "dossier.md")
    assert dossier is not None
    assert f"it is wanted (**forced**, {as_text('although held back by kl_ratio')})" in dossier

    assert not rollback(PlainRunner(clients), Reference(MODEL), reason="no gate is asked").change.forced
    assert clients.volume.promoted(MODEL).default_id == promoted.id
    assert paddock("promote", str(candidate.id)).status == 2


@pytest.mark.parametrize("passed", [True, None], ids=["passed", "undecided"])
def test_a_result_on_the_promoted_snapshot_is_not_measured_again(
    clients: Clients, rivals: tuple[Manifest, Manifest], caplog: pytest.LogCaptureFixture, passed: bool | None
) -> None:
    promoted, candidate = rivals
    record_gates(clients, candidate, report_on(candidate, promoted, passed))
    given = Given()
    assert promote_given(clients, candidate, given).change.revision == B
    assert given.asked == []
    warning = "the gate kl_ratio could not decide, and counts as passed: it diverges twice as far"
    assert (warning in caplog.text) == (passed is None)


def test_a_result_on_another_snapshot_than_the_promoted_one_does_not_count(
    clients: Clients, rivals: tuple[Manifest, Manifest]
) -> None:
    promoted, candidate = rivals
    other = put(clients, C, tiny_model(2))
    record_gates(clients, candidate, report_on(candidate, other, False))
    given, announced = Given(), list[str]()
    promote_given(clients, candidate, given, announced)
    assert [asked[:2] for asked in given.asked] == [(candidate, promoted)]
    (line,) = announced
    assert line.startswith("comparing org/tiny-GGUF:Q8_0@bbbbbbbb with org/tiny-GGUF:Q8_0@aaaaaaaa, which takes")


@pytest.mark.parametrize("undecided", ["pass", "block"])
def test_what_an_undecided_gate_counts_for_is_the_catalogs_choice(
    clients: Clients,
    rivals: tuple[Manifest, Manifest],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    undecided: str,
) -> None:
    _, candidate = rivals
    catalog = tmp_path / "catalog.yaml"
    entry = f"context_tokens: 512, profile: roleplay, gates: {{kl_ratio: 3}}, undecided: {undecided}"
    catalog.write_text(f"models:\n- {{model: {NAME}, {entry}}}\n- {{model: {NAME}, variant: Q4_K_M}}\n")
    monkeypatch.setenv("PADDOCK_CATALOG", str(catalog))
    given = Given(None)
    before = links_and_history(clients)
    if undecided == "block":
        with pytest.raises(GateNotPassed, match="held back by kl_ratio"):
            promote_given(connect(), candidate, given)
        assert links_and_history(clients) == before
    else:
        promote_given(connect(), candidate, given)
    ((_, _, rules),) = given.asked
    assert rules == GateRules({"kl_ratio": 3.0}, undecided == "block", 512, True)


def test_a_promotion_in_between_is_noticed_and_changes_nothing(
    clients: Clients, rivals: tuple[Manifest, Manifest]
) -> None:
    _, candidate = rivals
    other = put(clients, C, tiny_model(2))
    given = Given(meanwhile=lambda: clients.volume.promote(other.id, reason="meanwhile"))
    with pytest.raises(PromotionConflict, match=r"was to replace .*aaaaaaaa, and .*cccccccc was promoted meanwhile"):
        promote_given(clients, candidate, given)
    assert clients.volume.promoted(MODEL).default_id == other.id
    again = Given()
    promote_given(clients, candidate, again)  # as the cure says
    assert [asked[1].id for asked in again.asked] == [other.id]


def test_what_replaces_no_other_files_is_not_compared(clients: Clients) -> None:
    given = Given(False)
    first = put(clients, A, tiny_model())
    promote_given(clients, first, given)
    same = put(clients, B, tiny_model())
    promote_given(clients, same, given)
    beside = put(clients, C, tiny_model(file_type=15), variant=Q4)
    clients.volume.promote(beside.id, reason="beside", default=False)
    promote_given(clients, beside, given)
    assert clients.volume.promoted(MODEL).default_id == beside.id
    assert given.asked == []


def test_another_variant_is_compared_with_the_default(clients: Clients, rivals: tuple[Manifest, Manifest]) -> None:
    promoted, _ = rivals
    other = put(clients, A, tiny_model(file_type=15), variant=Q4)
    given = Given(False)
    with pytest.raises(GateNotPassed):
        promote_given(clients, other, given)
    assert [asked[1].id for asked in given.asked] == [promoted.id]


def test_a_variant_that_does_not_become_the_default_replaces_only_what_it_takes_the_place_of(
    clients: Clients, rivals: tuple[Manifest, Manifest]
) -> None:
    promoted, _ = rivals
    other = put(clients, A, tiny_model(file_type=15), variant=Q4)

    def promote_beside(instead_of: Variant | None, given: Given) -> PromoteResult:
        return promote(
            PlainRunner(clients),
            other.id.reference,
            reason="beside",
            default=False,
            instead_of=instead_of,
            comparer=given,
        )

    failing = Given(False)
    with pytest.raises(GateNotPassed):
        promote_beside(Q8, failing)
    assert [asked[1].id for asked in failing.asked] == [promoted.id]
    nothing = Given(False)
    assert not promote_beside(None, nothing).change.moves_default
    assert nothing.asked == []
    assert clients.volume.promoted(MODEL).default_id == promoted.id


def test_a_forced_promotion_without_a_comparison_says_so(
    clients: Clients, rivals: tuple[Manifest, Manifest], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also with a catalog that cannot be read: no bound is needed."""
    monkeypatch.setenv("PADDOCK_CATALOG", str(tmp_path / "none.yaml"))
    _, candidate = rivals
    runner = PlainRunner(connect())
    for reason in ("promoted by hand", "  "):
        with pytest.raises(BadSetting, match="no reason of its own"):
            promote(runner, candidate.id.reference, reason=reason, force=True)
    change = promote(runner, candidate.id.reference, reason="it is wanted", force=True).change
    assert (change.forced, change.failed_gates) == (True, ())
    # There is nothing to force where nothing is replaced.
    assert not promote(runner, candidate.id.reference, reason="it is wanted", force=True).change.forced


class Briefly(InProcess):
    """An onboarding that validates little, measures nothing, and compares with a given outcome."""

    def __init__(self, clients: Clients, passed: bool | None) -> None:
        super().__init__(PlainRunner(clients))
        self.clients, self.passed = clients, passed

    def acquire(self, request: OnboardRequest) -> Published:
        return acquire(PlainRunner(self.clients), request.for_acquisition())

    def validate(self, manifest: Manifest, request: OnboardRequest) -> Validation:
        return validate_snapshot(self.clients, manifest)

    def benchmark(self, manifest: Manifest, request: OnboardRequest) -> None: ...

    def compare(self, manifest: Manifest, request: OnboardRequest) -> GateReport | None:
        promoted = self.clients.volume.promoted(MODEL).default_id
        assert promoted is not None
        against = self.clients.volume.snapshot(promoted)
        assert against is not None
        report = report_on(manifest, against, self.passed)
        record_gates(self.clients, manifest, report)
        return report


def test_an_onboarding_that_is_held_back_keeps_the_promoted_snapshot_and_a_pull_heeds_it(
    clients: Clients, pulled: Manifest, hub: HubService, paddock: Paddock
) -> None:
    before = links_and_history(clients)
    revision = hub.repository(NAME).commit({"tiny-Q8_0.gguf": altered_model()})
    result = onboard(clients, Briefly(clients, False), OnboardRequest(Reference(MODEL)))
    assert (result.state, result.held_back, result.promoted, result.revision) == ("Held back", True, False, revision)
    assert "not promoted; held back by kl_ratio: it diverges twice as far" in result.line
    assert result.to_json()["gates"]["passed"] is False
    assert Path(result.dossier).is_file()
    assert Path(result.path).parts[-2:] == (revision, "Q8_0")
    assert links_and_history(clients) == before

    again = paddock("pull", NAME, "--json")
    assert (again.status, again.json["promoted"], again.json["revision"]) == (2, False, revision)
    assert again.json["notes"][1:] == ["it is not promoted: it was held back by kl_ratio: it diverges twice as far"]
    assert links_and_history(clients) == before

    passed = onboard(clients, Briefly(clients, None), OnboardRequest(Reference(MODEL)))
    assert (passed.state, passed.promoted) == ("Completed", True)
    assert passed.line.endswith(f"passed 0 gates against {pulled.id}; not decided: kl_ratio")
    assert clients.volume.promoted(MODEL).of(Q8) != pulled.id


def test_a_candidate_that_is_held_back_without_being_promoted_is_no_failure(
    clients: Clients, pulled: Manifest, hub: HubService
) -> None:
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": altered_model()})
    request = OnboardRequest(Reference(MODEL), promote=False)
    result = onboard(clients, Briefly(clients, False), request)
    assert (result.state, result.held_back, result.promoted) == ("Completed", False, False)
    assert result.line.endswith("held back by kl_ratio: it diverges twice as far")


def large_model(*, layers: int = 16, head: int = 4096) -> bytes:
    """A small file whose KV cache takes 256 GiB with 1,048,576 tokens of context."""
    file = tiny_llama(layers=layers).set("llama.context_length", U32, MOST_TOKENS)
    for key in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        file.set(f"llama.{key}", U32, head)
    shapes = {"attn_q": (32, 2 * head), "attn_k": (32, head), "attn_v": (32, head), "attn_output": (2 * head, 32)}
    for layer in range(layers):
        for name, shape in shapes.items():
            row = file.tensor(f"blk.{layer}.{name}.weight")
            row.shape, row.data = shape, bytes(prod(shape) // 32 * 34)
    return file.to_bytes()


@pytest.mark.torture
def test_a_model_for_another_machine_that_does_not_fit_this_one_is_not_compared_here(clients: Clients) -> None:
    promoted, candidate = put(clients, A, tiny_model()), put(clients, B, large_model())
    clients.volume.promote(promoted.id, reason="the first")
    runner = PlainRunner(clients)
    compare_here = in_process(runner, target="8x-h200-141gb")
    report = compare_here(candidate, promoted, GateRules(context_tokens=MOST_TOKENS))
    assert (report.passed, [gate.name for gate in report.undecided]) == (True, ["comparison"])
    assert "it is meant for 8x-h200-141gb: " in report.undecided[0].reason
    assert not compare_here(candidate, promoted, GateRules(undecided_blocks=True, context_tokens=MOST_TOKENS)).passed
    record_gates(clients, candidate, report)
    assert promote(runner, candidate.id.reference, reason="its machine is another one").change.revision == B


def test_every_gate_with_a_bound_can_be_overridden_in_the_catalog() -> None:
    assert set(GATES) == set(BOUND_NAMES)
