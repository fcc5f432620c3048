"""Compose the dossier of a snapshot from what is known of it. Nothing is read here."""

from __future__ import annotations

import shlex
from dataclasses import asdict

from paddock.lifecycle.dossier.document import (
    Command,
    DossierDocument,
    FileRow,
    FindingRow,
    GateRow,
    GatesSummary,
    HeaderSummary,
    Interval,
    LoadCost,
    MachineCost,
    MemoryPart,
    MemorySummary,
    Origin,
    PictureRow,
    PromotionRow,
    QualitySummary,
    Run,
    SpeedSummary,
    Template,
)
from paddock.lifecycle.dossier.facts import DossierFacts
from paddock.lifecycle.dossier.verdicts import answer_all, machine_of
from paddock.lifecycle.run.servable import SERVED
from paddock.measure.benchmark_report import Benchmark
from paddock.measure.cost import CostRow
from paddock.measure.quality import Estimate

_SMALLEST_SERVED_CONTEXT = 64


def compose(facts: DossierFacts) -> DossierDocument:
    """Compose the document."""
    manifest = facts.manifest
    return DossierDocument(
        name=manifest.id.name,
        reference=str(manifest.id),
        variant=manifest.variant,
        promoted=facts.promoted.holds(manifest.id),
        default=facts.is_default,
        verdict=facts.verdict,
        verdicts=answer_all(facts),
        origin=Origin(
            repository=manifest.repository,
            revision=manifest.revision,
            source=manifest.source,
            published_at=manifest.created_at,
            licence=manifest.licence,
            paddock_version=manifest.paddock_version,
            engine_version=manifest.engine_version,
        ),
        header=_header(facts),
        template=_template(facts),
        run=_run(facts),
        findings=_findings(facts),
        validated=facts.validation is not None,
        memory=_memory(facts),
        speed=_speed(facts.benchmark) if facts.benchmark else None,
        quality=_quality(facts),
        gates=_gates(facts),
        costs=tuple(map(_cost, facts.costs)),
        promotions=_promotions(facts),
        files=tuple(FileRow(path=file.path, size_bytes=file.size, sha256=file.sha256) for file in manifest.files),
        pictures=tuple(
            PictureRow(name=picture.name, file=picture.svg_file, title=picture.title, alt=picture.alt)
            for picture in facts.pictures
        ),
        known_at=facts.known_at,
    )


def _header(facts: DossierFacts) -> HeaderSummary:
    model = facts.validation.model if facts.validation else None
    return HeaderSummary(
        kind=model.kind if model else None,
        quantization=facts.manifest.quantization,
        architecture=model.architecture if model else None,
        parameters=model.parameters if model else None,
        context_length=model.context_length if model else None,
        size_bytes=facts.manifest.size_bytes,
        shards=facts.manifest.split,
    )


def _template(facts: DossierFacts) -> Template | None:
    model = facts.validation.model if facts.validation else None
    if facts.chat is None or (model is not None and not model.kind.generates_text):
        return None
    return Template(
        origin=facts.chat.origin,
        why=facts.chat.why,
        sha256=facts.chat.sha256,
        stop=facts.chat.stop,
    )


def _run(facts: DossierFacts) -> Run:
    """The commands, and the parameters of a benchmark that can be believed, else of the plan."""
    measured, validation = facts.benchmark, facts.validation
    if measured is not None and measured.reliable:
        source = "tuned benchmark" if measured.tuned else "benchmark"
        return Run(commands=_commands(facts), parameters=measured.parameters, source=source)
    if validation is not None and validation.parameters is not None:
        return Run(commands=_commands(facts), parameters=validation.parameters.to_json(), source="plan")
    return Run(commands=_commands(facts), parameters=None, source=None)


def _commands(facts: DossierFacts) -> tuple[Command, ...]:
    id, validation = facts.manifest.id, facts.validation
    follows = facts.promoted.holds(id)
    kind = validation.model.kind if validation and validation.model else None
    context = ""
    if validation is not None and validation.context_tokens >= _SMALLEST_SERVED_CONTEXT:
        context = f" --ctx {validation.context_tokens}"
    name, exact = shlex.quote(id.name), shlex.quote(id.short)
    lines = []
    if kind is None or kind in SERVED:
        if follows:
            lines.append((f"paddock serve {name}{context}", "serve it, and follow later promotions"))
        lines.append((f"paddock serve {exact}{context}", "serve exactly this revision"))
    lines += [
        (f"paddock verify {exact}", "compare every stored byte with its digest"),
        (f"paddock show {exact} --dossier", "print this page with what is known now"),
        (f"paddock pull {shlex.quote(str(id))}", "bring it to another volume"),
    ]
    return tuple(Command(line=line, purpose=purpose) for line, purpose in lines)


def _findings(facts: DossierFacts) -> tuple[FindingRow, ...]:
    """The findings of the validation; without one, those that the manifest keeps, of which it has rule and severity."""
    if facts.validation is not None:
        return tuple(
            FindingRow(
                rule=finding.rule,
                severity=finding.severity,
                message=finding.message,
                where=finding.where,
                cure=finding.cure,
            )
            for finding in facts.validation.findings
        )
    return tuple(
        FindingRow(rule=recorded.rule, severity=recorded.severity, message="", where="", cure="")
        for recorded in facts.manifest.findings
    )


def _memory(facts: DossierFacts) -> MemorySummary | None:
    validation = facts.validation
    if validation is None:
        return None
    *parts, _ = validation.memory.parts()
    return MemorySummary(
        context_tokens=validation.context_tokens,
        target=validation.target,
        parts=tuple(MemoryPart(name=name, bytes=size) for name, size in parts),
        total_bytes=validation.memory.total_bytes,
        source=validation.memory.source,
        given_up=validation.given_up,
    )


def _speed(measured: Benchmark) -> SpeedSummary:
    return SpeedSummary(
        reliable=measured.reliable,
        doubts=measured.stated_doubts,
        measured_at=measured.measured_at,
        machine=machine_of(measured),
        engine=measured.engine,
        prefill_tok_per_s=measured.prefill_tok_per_s,
        decode_tok_per_s=None if measured.kind.embeds else measured.decode_tok_per_s,
        time_to_first_token_s=measured.time_to_first_token_s,
        rows=tuple(row for row in measured.rows() if row[0] != "not reliable"),
    )


def _quality(facts: DossierFacts) -> QualitySummary | None:
    measured = facts.quality
    if measured is None:
        return None
    kl = measured.kl_divergence
    return QualitySummary(
        reference=measured.reference,
        predicted_tokens=measured.predicted,
        perplexity=_interval(measured.perplexity),
        reference_perplexity=_interval(measured.reference_perplexity),
        kl_mean=Interval(value=kl.mean, low=kl.ci95[0], high=kl.ci95[1]),
        kl_median=kl.median,
        kl_p99=kl.p99,
        kl_p999=kl.p999,
        kl_max=kl.max,
        top1_agreement=_interval(measured.top1_agreement),
        measured_at=measured.measured_at,
        engine=measured.engine,
    )


def _interval(estimate: Estimate) -> Interval:
    return Interval(value=estimate.value, low=estimate.low, high=estimate.high)


def _gates(facts: DossierFacts) -> GatesSummary | None:
    report = facts.gates
    if report is None:
        return None
    return GatesSummary(
        promoted=report.promoted,
        reference=report.reference,
        passed=report.passed,
        undecided_blocks=report.undecided_blocks,
        gates=tuple(GateRow.model_validate(gate.to_json()) for gate in report.gates),
        measured_at=report.measured_at,
    )


def _cost(row: CostRow) -> MachineCost:
    return MachineCost(
        machine=row.machine,
        context_tokens=row.context_tokens,
        reliable=row.reliable,
        doubts=row.doubts,
        price_per_hour=row.price_per_hour,
        price_source=row.price_source,
        price_in=row.price_in,
        price_out=row.price_out,
        joules_in=row.joules_in,
        joules_out=row.joules_out,
        under_load=tuple(LoadCost(**asdict(load)) for load in row.under_load),
    )


def _promotions(facts: DossierFacts) -> tuple[PromotionRow, ...]:
    return tuple(
        PromotionRow(
            at=change.at,
            variant=change.variant,
            revision=change.revision,
            previous=change.previous,
            default=change.default,
            previous_default=change.previous_default,
            rollback=change.rollback,
            forced=change.forced,
            failed_gates=change.failed_gates,
            reason=change.reason,
            by=change.by,
        )
        for change in facts.history
    )
