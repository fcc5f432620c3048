"""Compare a candidate with what is promoted, and decide its gates."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from paddock.engine.facts import engine_version
from paddock.errors import ModelError
from paddock.gguf.directory import get_gguf_file_path
from paddock.lifecycle.assess.verified import open_snapshot
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.dossier import refresh_dossier
from paddock.lifecycle.gate_reports import GATES, record_gates
from paddock.lifecycle.promote import measurements
from paddock.lifecycle.promote.bounds import Bounds, bounds_with
from paddock.lifecycle.promote.evidence import Evidence, Missing, NotFinite, PairedPredictions
from paddock.lifecycle.promote.gates import decide, limits_of
from paddock.lifecycle.promote.measurements import MeasuredSnapshot
from paddock.lifecycle.promote.reference import find_promoted, read_weights
from paddock.lifecycle.promote.templates import decide_template
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.steps import step
from paddock.measure.gate_report import GateReport
from paddock.measure.likelihood import LIMIT_TOKENS
from paddock.measure.paired_speed import Side
from paddock.model.artifact import Manifest
from paddock.model.finding import Verdict
from paddock.model.names import Sha256
from paddock.store.open_snapshot import OpenSnapshot

__all__ = ["CONTEXT_TOKENS", "GATES", "compare"]
CONTEXT_TOKENS = 4096


@step(Kind.ENGINE, "gates", line=lambda report: report.line, warnings=lambda report: report.warnings)
def compare(
    clients: Clients,
    manifest: Manifest,
    *,
    promoted: Manifest | None = None,
    overrides: Mapping[str, float] | None = None,
    context_tokens: int | None = None,
    roleplay: bool = False,
    undecided_blocks: bool = False,
    limit_tokens: int = LIMIT_TOKENS,
    keep: bool = True,
) -> GateReport:
    """Compare a snapshot with `promoted`, by default what is promoted for the model, decide its gates, and with `keep`
    write the report. Where nothing is promoted, the gates that need no other snapshot are decided.

    `overrides` replace default bounds, by the gate's name; `undecided_blocks`: a gate that cannot decide holds the
    candidate back. At most `limit_tokens` tokens of Paddock's own texts are predicted.

    Raises BadSetting for a gate without a bound, and CorruptFile for a damaged candidate. What a gate finds is in the
    report, and raises nothing.
    """
    bounds = bounds_with(overrides)
    began = time.monotonic()
    promoted = promoted or find_promoted(clients, manifest)
    with clients.volume.lease(manifest.id), open_snapshot(clients, manifest) as opened:
        work = _Work(clients, bounds, context_tokens or CONTEXT_TOKENS, limit_tokens, roleplay)
        evidence = _gather(work, opened, promoted)
    found = evidence.predictions
    report = GateReport(
        model=str(manifest.id),
        promoted=str(promoted.id) if promoted else None,
        reference=str(found.reference) if isinstance(found, PairedPredictions) else None,
        gates=decide(evidence, bounds),
        limits=limits_of(evidence, bounds),
        undecided_blocks=undecided_blocks,
        engine=f"llama-cpp-python {engine_version()}",
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - began, 3),
    )
    if keep:
        record_gates(clients, manifest, report)
        refresh_dossier(clients, manifest)
    return report


@dataclass(frozen=True, slots=True)
class _Work:
    """The settings of one comparison, and its clients."""

    clients: Clients
    bounds: Bounds
    context_tokens: int
    limit_tokens: int
    roleplay: bool


def _gather(work: _Work, opened: OpenSnapshot, promoted: Manifest | None) -> Evidence:
    """Measure what the gates need: the cheap first, and nothing more of a candidate that cannot be used."""
    clients, manifest = work.clients, opened.manifest
    if promoted is not None and _digests(promoted) == _digests(manifest):
        return Evidence(same_weights=f"its files are those of {promoted.id.short}, which is promoted")
    audit = measurements.audit_of(clients, opened, promoted)
    if audit.verdict is Verdict.REJECT:  # the engine loads no rejected file
        return Evidence(audit=audit)
    candidate = _stored(opened)
    kind = candidate.weights.kind
    template = decide_template(clients, manifest, promoted) if kind.generates_text else ()
    if promoted is not None and promoted.weights == manifest.weights:
        return Evidence(
            same_weights=f"its weights are those of {promoted.id.short}, which is promoted",
            audit=audit,
            template=template,
        )
    if not (kind.generates_text or kind.embeds):  # the engine runs it beside another model alone
        return Evidence(audit=audit, template=template)
    finite, memory, side = measurements.load(clients, candidate, work.context_tokens)
    alone = Evidence(audit=audit, finite=finite, memory=memory, template=template)
    if promoted is None or side is None:
        return alone
    return _against(work, candidate, side, promoted, alone)


def _against(work: _Work, candidate: MeasuredSnapshot, side: Side, promoted: Manifest, alone: Evidence) -> Evidence:
    """Add what is measured against the promoted snapshot."""
    clients, context, kind = work.clients, work.context_tokens, candidate.weights.kind
    try:
        with clients.volume.lease(promoted.id), open_snapshot(clients, promoted) as opened:
            other = _stored(opened)
            if other.weights.kind != kind:
                reason = Missing(
                    f"it is {kind.noun}, and the promoted one {other.weights.kind.noun}", by_candidate=True
                )
                return replace(alone, predictions=reason)
            if not kind.generates_text:
                return replace(alone, speed=measurements.speed(clients, side, other, work.bounds, context))
            predictions = measurements.predictions(clients, candidate, other, limit_tokens=work.limit_tokens)
            if isinstance(predictions, NotFinite):
                return replace(alone, finite=predictions)
            return replace(
                alone,
                predictions=predictions,
                answers=measurements.answers(clients, candidate, other),
                speed=measurements.speed(clients, side, other, work.bounds, context),
                roleplay=measurements.roleplay(clients, candidate, other, context) if work.roleplay else None,
            )
    except ModelError as error:  # the promoted one is damaged, or its header cannot be read
        missing = Missing(f"{promoted.id.short} cannot be compared with: {error.message}")
        return replace(alone, predictions=missing if kind.generates_text else None, speed=missing)


def _stored(opened: OpenSnapshot) -> MeasuredSnapshot:
    weights = read_weights(opened.manifest, opened.directory)
    return MeasuredSnapshot(opened.manifest, weights, get_gguf_file_path(opened.directory))


def _digests(manifest: Manifest) -> frozenset[Sha256]:
    return frozenset(file.sha256 for file in manifest.files)
