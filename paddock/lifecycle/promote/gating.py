"""Decide by the gates whether a snapshot may replace what is promoted.

A promotion that replaces other files needs a passing report of the gates (`paddock.lifecycle.promote.compare`): on
these files, against the snapshot that it replaces now. Where there is no report on that pair, the two are compared. The
first promotion of a model and a rollback need none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Protocol

from paddock.engine.facts import engine_version
from paddock.errors import CorruptFile, DoesNotFit, GateNotPassed
from paddock.lifecycle import reports
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.dossier import refresh_dossier
from paddock.lifecycle.gate_reports import GATES, read_gates, record_gates
from paddock.lifecycle.promote.gate_rules import GateRules, gate_rules
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.steps import Runner, step
from paddock.measure.gate_report import Gate, GateReport
from paddock.model.artifact import Manifest
from paddock.model.hardware import this_machine
from paddock.model.reference import SnapshotId, Variant
from paddock.planning.profile import ProfileName
from paddock.planning.targets import THIS_MACHINE
from paddock.store.history import Promoted

_LOG = logging.getLogger(__name__)


Comparer = Callable[[Manifest, Manifest, GateRules], GateReport]
"""Compares a candidate with the promoted snapshot, and stores the report."""


@dataclass(frozen=True, slots=True)
class GateCheck:
    """The facts about a snapshot before its promotion.

    `state` is the promoted state. `replaced` is the snapshot with other files that the promotion would replace in it,
    if there is one, and `report` the newest report on this pair.
    """

    state: Promoted
    replaced: Manifest | None = None
    report: GateReport | None = None

    @property
    def line(self) -> str:
        if self.replaced is None:
            return "there is nothing to compare it with: it replaces no other files"
        known = self.report.line if self.report else "not compared yet"
        return f"it replaces {self.replaced.id.short}: {known}"

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.report.warnings if self.report else ()


@dataclass(frozen=True, slots=True)
class PromotionScope:
    """The reach of a promotion beyond its variant's revision. `default`: the model's default variant. `instead_of`: it
    takes the place of this variant, whose promoted snapshot it is compared with where it replaces no other one."""

    default: bool = True
    instead_of: Variant | None = None

    def replaced(self, state: Promoted, id: SnapshotId) -> SnapshotId | None:
        """The snapshot that a promotion of `id` replaces in a promoted state."""
        replaced = state.replaced_by(id, default=self.default)
        if replaced is None and self.instead_of is not None and not state.holds(id):
            replaced = state.of(self.instead_of)
        return replaced


DEFAULT_TOO: Final = PromotionScope()
"""A promotion that makes its variant the model's default."""


@step(Kind.STORE, "check-gates", line=lambda check: check.line, warnings=lambda check: check.warnings)
def check_gates(clients: Clients, manifest: Manifest, scope: PromotionScope = DEFAULT_TOO) -> GateCheck:
    """Find out what a promotion of the snapshot would replace, and the report on the two. Raises CorruptFile where the
    manifest of the promoted snapshot is damaged."""
    state = clients.volume.promoted(manifest.model)
    id = scope.replaced(state, manifest.id)
    replaced = clients.volume.snapshot(id) if id else None
    if replaced is None or _same_files(replaced, manifest):
        return GateCheck(state)
    return GateCheck(state, replaced, read_report(clients, manifest, replaced))


@step(Kind.STORE, "read-gates", line=lambda report: report.line if report else "not compared yet")
def read_report(clients: Clients, manifest: Manifest, promoted: Manifest) -> GateReport | None:
    """The newest report on a snapshot, if it is one against `promoted`."""
    report = read_gates(clients, manifest)
    return report if report and report.promoted == str(promoted.id) else None


@step(
    Kind.STORE,
    "share-gates",
    line=lambda where: f"the report is at {where}" if where else "the report is on the volume alone",
)
def share_gates(clients: Clients, manifest: Manifest) -> str | None:
    """Copy the report to the remote store, for a run that waits for it with another volume. Returns its address; None
    without a remote store that has the snapshot."""
    return reports.share(clients, manifest, GATES)


def _same_files(one: Manifest, other: Manifest) -> bool:
    return (one.weights, one.template_sha256) == (other.weights, other.template_sha256)


def require_gates(
    runner: Runner,
    manifest: Manifest,
    comparer: Comparer,
    *,
    scope: PromotionScope = DEFAULT_TOO,
    announce: Callable[[str], None] = _LOG.info,
) -> Promoted:
    """Check that the gates let a snapshot replace what is promoted; compare them first where that was not done.

    `announce` is called with a line before a comparison. Returns the promoted state for which the decision holds.
    Raises GateNotPassed.
    """
    check = runner.run(check_gates, manifest, scope)
    if check.replaced is None:
        return check.state
    rules = gate_rules(runner.clients, manifest.id)
    report = check.report
    if report is None:
        announce(f"comparing {manifest.id.short} with {check.replaced.id.short}, which takes a minute or more")
        report = comparer(manifest, check.replaced, rules)
    report = replace(report, undecided_blocks=rules.undecided_blocks)
    if not report.passed:
        raise not_passed(manifest, report)
    return check.state


def not_passed(manifest: Manifest, report: GateReport) -> GateNotPassed:
    return GateNotPassed(
        f"{manifest.id.short} was {report.line}, compared with {report.promoted}",
        cure=f"keep what is promoted, or promote it with `paddock promote {manifest.id} --force --reason WHY`;"
        f" `paddock compare {manifest.id}` compares it again",
    )


class ComparisonRequest(Protocol):
    """The part of an onboarding's request that its comparison goes by."""

    @property
    def context(self) -> int: ...

    @property
    def profile(self) -> ProfileName: ...

    @property
    def scope(self) -> PromotionScope: ...


def compare_with_promoted(
    runner: Runner, manifest: Manifest, comparer: Comparer, request: ComparisonRequest
) -> GateReport | None:
    """Compare a snapshot with what its promotion would replace, by the catalog's rules, and write its Data Docs again,
    with the gates. None where it would replace no other files."""
    check = runner.run(check_gates, manifest, request.scope)
    if check.replaced is None:
        return None
    rules = replace(
        gate_rules(runner.clients, manifest.id),
        context_tokens=request.context,
        roleplay=request.profile == "roleplay",
    )
    from paddock.lifecycle.assess.data_docs import write_data_docs

    report = comparer(manifest, check.replaced, rules)
    runner.run(write_data_docs, manifest)
    return report


def in_process(runner: Runner, *, target: str = THIS_MACHINE) -> Comparer:
    """Compares on this machine. A candidate that is meant for another `target`, and does not fit this machine, is not
    compared, and none of its gates is decided."""

    def compare_if_it_fits(candidate: Manifest, promoted: Manifest, rules: GateRules) -> GateReport:
        reason = _does_not_fit(runner.clients, candidate, rules) if target != THIS_MACHINE else None
        if reason is not None:
            return runner.run(leave_undecided, candidate, promoted, rules, f"it is meant for {target}: {reason}")
        return compare_here(runner, candidate, promoted, rules)

    return compare_if_it_fits


def compare_here(runner: Runner, candidate: Manifest, promoted: Manifest | None, rules: GateRules) -> GateReport:
    """Compare on this machine, by rules. `promoted` as in `compare`."""
    from paddock.lifecycle.promote.compare import compare  # half of Paddock, which a first pull does not need

    return runner.run(
        compare,
        candidate,
        promoted=promoted,
        overrides=rules.bounds,
        context_tokens=rules.context_tokens,
        roleplay=rules.roleplay,
        undecided_blocks=rules.undecided_blocks,
    )


def _does_not_fit(clients: Clients, manifest: Manifest, rules: GateRules) -> str | None:
    from paddock.lifecycle.promote.compare import CONTEXT_TOKENS
    from paddock.lifecycle.run.benchmark import plan_of

    try:
        plan_of(clients, manifest, rules.context_tokens or CONTEXT_TOKENS, machine=this_machine())
    except DoesNotFit as error:
        return error.message
    return None


@step(Kind.STORE, "gates", line=lambda report: report.line, warnings=lambda report: report.warnings)
def leave_undecided(
    clients: Clients, manifest: Manifest, promoted: Manifest, rules: GateRules, reason: str
) -> GateReport:
    """Write the report of a candidate that cannot be compared here: none of its gates is decided."""
    report = GateReport(
        model=str(manifest.id),
        promoted=str(promoted.id),
        reference=None,
        gates=(Gate("comparison", "made on a machine that it fits", None, None, None, None, None, reason),),
        undecided_blocks=rules.undecided_blocks,
        engine=f"llama-cpp-python {engine_version()}",
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=0.0,
    )
    record_gates(clients, manifest, report)
    refresh_dossier(clients, manifest)
    return report


def overridden_gates(
    clients: Clients, manifest: Manifest, scope: PromotionScope = DEFAULT_TOO
) -> tuple[str, ...] | None:
    """The gates that a forced promotion overrides: those that held the snapshot back, or none where it was not
    compared. None: there is nothing to override, since it passed, or replaces no other files."""
    with suppress(CorruptFile):
        check = check_gates(clients, manifest, scope)
        if check.replaced is None or (check.report and check.report.passed):
            return None
        if check.report:
            return tuple(gate.name for gate in check.report.failed or check.report.undecided)
    return ()


def known_to_fail(clients: Clients, manifest: Manifest) -> GateReport | None:
    """The report by which a snapshot was held back from replacing what is promoted now, if the volume has one. Nothing
    is compared, and S3 is not asked."""
    try:
        report = check_gates(replace(clients, remote=None), manifest).report
    except CorruptFile:  # of the promoted snapshot: nothing was compared with it
        return None
    return report if report and not report.passed else None
