"""Measure a candidate for the gates, alone and against the promoted snapshot, in the engine's processes.

What cannot be measured because of the model or the machine is `Missing`, with the reason. Errors that a repetition may
cure, and those of the volume, are raised.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from paddock.engine.oracle import measure_memory
from paddock.errors import (
    ConflictingConfiguration,
    DoesNotFit,
    EngineCrashed,
    EngineOutOfMemory,
    ModelError,
    ModelRejected,
    PaddockError,
)
from paddock.gguf.directory import get_gguf_file_path
from paddock.lifecycle.assess.audit import audit_paths, shards_of
from paddock.lifecycle.assess.chat_template import chat_of_snapshot
from paddock.lifecycle.assess.validate import read_validation
from paddock.lifecycle.assess.verified import open_snapshot
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.promote.bounds import Bounds
from paddock.lifecycle.promote.evidence import (
    AuditVerdict,
    MemoryUse,
    Missing,
    NotFinite,
    PairedPredictions,
    PairedRoleplay,
)
from paddock.lifecycle.promote.gates import speed_is_decided
from paddock.lifecycle.promote.reference import Weights, choose_reference
from paddock.lifecycle.run.benchmark import planned
from paddock.lifecycle.run.tune import apply_tuning
from paddock.measure.answers import Answers, compare_answers, same_tensors
from paddock.measure.likelihood import LIMIT_TOKENS, Comparison, predict
from paddock.measure.paired import compare_quality
from paddock.measure.paired_speed import PairedSpeed, Side, load_alone, measure_pair
from paddock.measure.quality_text import own_texts
from paddock.measure.roleplay import measure_roleplay
from paddock.model.artifact import Manifest
from paddock.model.finding import Finding, Severity, Verdict, verdict_of, worst_verdict
from paddock.model.hardware import this_machine
from paddock.store.open_snapshot import OpenSnapshot

NOT_MEASURED = (ModelError, EngineCrashed, EngineOutOfMemory)
"""Errors that become a reason: of a model, or of an engine that could not run it."""
_COARSER = 1.05
"""A reference with so many fewer bits per weight than the candidate does not measure its loss."""


@dataclass(frozen=True, slots=True)
class MeasuredSnapshot:
    """A snapshot that is measured, its weights by its header, and its GGUF (the first shard of a split one)."""

    manifest: Manifest
    weights: Weights
    path: Path


def audit_of(clients: Clients, opened: OpenSnapshot, promoted: Manifest | None) -> AuditVerdict:
    """The worst verdict on the candidate: that of its last validation on this volume, else of an audit now. Whether it
    fits the memory is left to another gate."""
    manifest, directory = opened.manifest, opened.directory
    validation = read_validation(replace(clients, remote=None), manifest)
    findings: tuple[Finding, ...]
    if validation:
        findings = tuple(finding for finding in validation.findings if finding.rule != "compatibility.memory")
    else:
        try:
            findings = audit_paths([(name, directory / name) for name in shards_of(directory)]).findings
        except ModelError as error:
            return AuditVerdict(Verdict.REJECT, error.message, _verdict(clients, promoted))
    verdict = worst_verdict([manifest.verdict, verdict_of(findings)])
    rejecting = next((finding for finding in findings if finding.severity is Severity.REJECT), None)
    reason = f"it is rejected by {rejecting.rule}: {rejecting.message}" if rejecting else "its manifest says so"
    return AuditVerdict(verdict, reason if verdict is Verdict.REJECT else "", _verdict(clients, promoted))


def _verdict(clients: Clients, manifest: Manifest | None) -> Verdict | None:
    if manifest is None:
        return None
    validation = read_validation(replace(clients, remote=None), manifest)
    return worst_verdict([manifest.verdict, *([validation.verdict] if validation else [])])


def load(
    clients: Clients, candidate: MeasuredSnapshot, context_tokens: int
) -> tuple[Literal[True] | Missing, MemoryUse | Missing, Side | None]:
    """Load the candidate alone with the parameters that it serves with. Returns True if its output is finite, the
    memory that it took, and its side of a measurement of speeds."""
    try:
        side = _side(clients, candidate, context_tokens)
        memory = load_alone(side, timeout_s=clients.settings.engine_timeout_s)
    except DoesNotFit as error:
        return Missing(f"it was not loaded: {error.message}"), Missing(error.message, by_candidate=True), None
    except NOT_MEASURED as error:
        missing = _because(error, "the engine does not run it")
        return missing, replace(missing, by_candidate=False), None
    return True, MemoryUse(memory.total_bytes, side.planned.total_bytes), side


def predictions(
    clients: Clients, candidate: MeasuredSnapshot, promoted: MeasuredSnapshot, *, limit_tokens: int = LIMIT_TOKENS
) -> PairedPredictions | Missing:
    """The candidate's and the promoted snapshot's predictions against the best quantization at hand, else against the
    promoted snapshot."""
    best = choose_reference(clients, candidate.weights, promoted.manifest, promoted.weights)
    missing = Missing("")
    for reference in (best, promoted.manifest) if best.id != promoted.manifest.id else (best,):
        is_promoted = reference.id == promoted.manifest.id
        try:
            with clients.volume.lease(reference.id), open_snapshot(clients, reference) as opened:
                comparison = _predict(
                    clients,
                    get_gguf_file_path(opened.directory),
                    candidate.path,
                    None if is_promoted else promoted.path,
                    limit_tokens=limit_tokens,
                )
        except NOT_MEASURED as error:
            missing = _not_compared(error)
            continue
        coarser = is_promoted and candidate.weights.bits > _COARSER * promoted.weights.bits
        return PairedPredictions(compare_quality(comparison), reference.id, reference_is_coarser=coarser)
    return missing


def _predict(
    clients: Clients, reference: Path, candidate: Path, promoted: Path | None, *, limit_tokens: int
) -> Comparison:
    """All at once, or two at a time where three do not fit: the tokens are the same."""

    def run(*models: Path) -> Comparison:
        return predict(
            reference,
            models,
            own_texts(),
            threads=clients.settings.threads,
            limit_tokens=limit_tokens,
            timeout_s=clients.settings.engine_timeout_s,
        )

    if promoted is None:
        return run(candidate)
    try:
        return run(candidate, promoted)
    except DoesNotFit:
        own, other = run(candidate), run(promoted)
        return replace(own, candidates=(*own.candidates, *other.candidates))


def _not_compared(error: PaddockError) -> Missing:
    """The reason in the last attempt, in which the promoted snapshot is the reference."""
    if isinstance(error, ConflictingConfiguration):
        return Missing(f"it cannot be compared with the promoted one: {error.message}", by_candidate=True)
    if isinstance(error, ModelRejected) and not error.message.startswith("the reference"):
        return NotFinite(error.message, by_candidate=True)
    return Missing(f"its predictions were not compared: {error.message}")


def answers(clients: Clients, candidate: MeasuredSnapshot, promoted: MeasuredSnapshot) -> Answers | Missing | None:
    """The greedy answers of both, where all their tensors are the same; None where they are not."""
    try:
        if not same_tensors(candidate.path, promoted.path):
            return None
        return compare_answers(
            candidate.path,
            promoted.path,
            same_tensors=True,
            threads=clients.settings.threads,
            timeout_s=clients.settings.engine_timeout_s,
        )
    except NOT_MEASURED as error:
        return Missing(f"the answers were not compared: {error.message}")


def speed(
    clients: Clients, candidate: Side, promoted: MeasuredSnapshot, bounds: Bounds, context_tokens: int
) -> PairedSpeed | Missing:
    """Both speeds, each with the parameters that it serves with on this machine."""
    try:
        return measure_pair(
            candidate,
            _side(clients, promoted, context_tokens),
            is_decided=lambda found: speed_is_decided(found, bounds),
            budget_s=clients.settings.benchmark_budget_s,
            timeout_s=clients.settings.engine_timeout_s,
        )
    except NOT_MEASURED as error:
        return Missing(f"the speeds were not compared: {error.message}")


def roleplay(
    clients: Clients, candidate: MeasuredSnapshot, promoted: MeasuredSnapshot, context_tokens: int
) -> PairedRoleplay | Missing:
    try:
        own, other = (
            measure_roleplay(
                one.path,
                chat_of_snapshot(clients, one.manifest),
                context_tokens=context_tokens,
                threads=clients.settings.threads,
                timeout_s=clients.settings.engine_timeout_s,
            )
            for one in (candidate, promoted)
        )
    except NOT_MEASURED as error:
        return Missing(f"the roleplay was not compared: {error.message}")
    return PairedRoleplay(own, other)


def _side(clients: Clients, snapshot: MeasuredSnapshot, context_tokens: int) -> Side:
    machine = this_machine()
    plan, memory = planned(clients, snapshot.manifest, context_tokens, machine=machine)
    parameters = apply_tuning(clients, snapshot.manifest, plan, machine=machine, path=snapshot.path)
    if parameters != plan:
        memory = measure_memory(snapshot.path, context_tokens=parameters.n_ctx, parameters=parameters)
    return Side(snapshot.path, parameters, memory)


def _because(error: PaddockError, what: str) -> Missing:
    """A process that did not answer in time, or ran out of memory, says nothing of the model."""
    timed_out = isinstance(error, EngineCrashed) and not error.by_signal
    blamed = not (timed_out or isinstance(error, EngineOutOfMemory))
    return Missing(f"{what}: {error.message}", by_candidate=blamed)
