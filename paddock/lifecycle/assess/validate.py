"""Validate a snapshot on the volume: every check, joined into one verdict.

The checks: the integrity of the stored files, the audit of the GGUF and its chat template, the model's own
configuration against it, the expectations on its tables, whether the engine knows its architecture, and the memory that
the engine says it will take. The result is kept with the volume's reports.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paddock.engine.oracle import Memory
from paddock.errors import DoesNotFit
from paddock.lifecycle import reports
from paddock.lifecycle.assess.audit import audit_paths, require_accepted, shards_of
from paddock.lifecycle.assess.chat_template import check_chat_template
from paddock.lifecycle.assess.data_docs import write_data_docs
from paddock.lifecycle.assess.preflight import Preflight, idle_machine, preflight
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.locate import locate
from paddock.lifecycle.steps import Kind, Runner, step
from paddock.model.artifact import Manifest
from paddock.model.finding import Finding, Severity, Verdict, verdict_of
from paddock.model.quantization import get_gguf_file_path
from paddock.model.reference import Reference
from paddock.model.units import human_bytes
from paddock.planning.placement import Target
from paddock.planning.plan import PlanRequest
from paddock.planning.targets import THIS_MACHINE, parse_target
from paddock.store import repair
from paddock.validation.audit import Audit, ModelFacts
from paddock.validation.compatibility import why_unsupported
from paddock.validation.configuration import get_model_config
from paddock.validation.integrity import DAMAGED, check_stored

VALIDATION_REPORT = "judgement.json"


@dataclass(frozen=True, slots=True)
class Validation:
    """The verdict on a snapshot, what led to it, and what it takes in memory at `context_tokens`; `given_up` says what
    was asked for and is not had."""

    verdict: Verdict
    findings: tuple[Finding, ...]
    model: ModelFacts | None
    memory: Memory
    context_tokens: int
    given_up: tuple[str, ...] = ()
    target: str = THIS_MACHINE

    def to_json(self) -> dict[str, Any]:
        return {
            "verdict": str(self.verdict),
            "findings": [finding.to_json() for finding in self.findings],
            "model": asdict(self.model) if self.model else None,
            "memory": self.memory.to_json(),
            "context_tokens": self.context_tokens,
            "given_up": list(self.given_up),
            "target": self.target,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Validation:
        return cls(
            verdict=Verdict(value["verdict"]),
            findings=tuple(Finding.from_json(finding) for finding in value["findings"]),
            model=ModelFacts(**value["model"]) if value["model"] else None,
            memory=Memory.from_json(value["memory"]),
            context_tokens=value["context_tokens"],
            given_up=tuple(value.get("given_up", ())),
            target=value.get("target", THIS_MACHINE),
        )


@dataclass(frozen=True, slots=True)
class Structure:
    """The audit of a stored snapshot's GGUF, and all findings so far: those on its bytes, then those of the audit."""

    audit: Audit
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        return verdict_of(self.findings)


@dataclass(frozen=True, slots=True)
class Compatibility:
    """What the engine will allocate and with which parameters, and what of it does not fit."""

    preflight: Preflight
    findings: tuple[Finding, ...]


def validate(runner: Runner, wanted: Reference, context_tokens: int, *, target: str = THIS_MACHINE) -> Validation:
    """Validate a snapshot on the volume: integrity, structure and templates, configuration, expectations, and
    compatibility with the engine and the memory of `target`. A model that was trained for less context is asked for
    that.

    Raises ModelRejected for a damaged or rejected model, and DoesNotFit for one that is only too large.
    """
    machine = parse_target(target)
    manifest = runner.run(locate, wanted)
    stored = runner.run(check_integrity, manifest)
    structure = runner.run(check_structure, manifest, stored)
    require_accepted(manifest.id.short, structure.verdict, structure.findings)  # nothing worse reaches the engine
    configured = runner.run(check_configuration, manifest, structure.audit)
    chat = runner.run(check_chat_template, manifest, structure.audit)
    documented = runner.run(write_data_docs, manifest)
    compatible = runner.run(check_compatibility, manifest, context_tokens, target=machine)
    beside = (*stored, *configured, *chat.findings, *documented.findings)
    validation = runner.run(conclude, manifest, structure.audit, compatible, beside, target=target)
    require_sound(manifest, validation)
    return validation


@step(Kind.LOCAL, "integrity")
def check_integrity(clients: Clients, manifest: Manifest) -> tuple[Finding, ...]:
    """Read every file of a snapshot once, for its digest and its weights. A damaged blob is put aside, so that pulling
    the snapshot again fetches what is damaged."""
    snapshot = clients.volume.snapshot_path(manifest.id)
    found: list[Finding] = []
    for file in manifest.files:
        of_file = list(
            check_stored(
                snapshot / file.path, file, segment_bytes=manifest.segment_bytes, cure=repair.cure_of(manifest.id)
            )
        )
        if any(one.rule in DAMAGED for one in of_file):
            repair.put_aside(clients.volume, file.sha256, found_at=snapshot / file.path)
        found += of_file
    return tuple(found)


@step(Kind.LOCAL, "structure")
def check_structure(clients: Clients, manifest: Manifest, stored: Sequence[Finding]) -> Structure:
    """Audit the GGUF by its header and its chat templates; `stored` are the findings on its bytes."""
    audit = audit_snapshot(clients, manifest)
    return Structure(audit, (*stored, *audit.findings))


def audit_snapshot(clients: Clients, manifest: Manifest) -> Audit:
    """Audit the model of a snapshot on the volume by its header and its templates."""
    snapshot = clients.volume.snapshot_path(manifest.id)
    return audit_paths([(name, snapshot / name) for name in shards_of(snapshot)])


@step(Kind.LOCAL, "configuration")
def check_configuration(clients: Clients, manifest: Manifest, audit: Audit) -> tuple[Finding, ...]:
    """The repository's own configuration and its licence, beside what the GGUF says."""
    path = clients.volume.snapshot_path(manifest.id)
    return (*_configuration(path, manifest, audit.model), *_licence(manifest))


@step(Kind.ENGINE, "compatibility", warnings=lambda found: found.preflight.plan.given_up)
def check_compatibility(
    clients: Clients, manifest: Manifest, context_tokens: int, *, target: Target | None = None
) -> Compatibility:
    """Ask the engine what an audited model will take, beside what `target` has, by default this machine. A model that
    was trained for less context is asked for that.

    Raises ModelRejected for one that the engine dies of.
    """
    path = get_gguf_file_path(clients.volume.snapshot_path(manifest.id))
    wish = PlanRequest(context_tokens, at_most_trained=True)
    found = preflight(clients, str(path), wish, target=target, machine=idle_machine())
    return Compatibility(found, tuple(_memory(found)))


@step(Kind.LOCAL, "verdict", line=lambda validation: f"the verdict is {validation.verdict}")
def conclude(
    clients: Clients,
    manifest: Manifest,
    audit: Audit,
    compatibility: Compatibility,
    beside: Sequence[Finding],
    *,
    target: str = THIS_MACHINE,
) -> Validation:
    """Join every check into one verdict, and keep it; `beside` are the findings of integrity and configuration. What
    was judged for another `target` than this machine is kept beside what stands for it.

    Raises nothing for a bad model: that is `require_sound`.
    """
    findings = (*beside, *audit.findings, *compatibility.findings)
    plan = compatibility.preflight.plan
    judged = Validation(
        verdict_of(findings), findings, audit.model, plan.memory, plan.context_tokens, plan.given_up, target
    )
    reports.keep(clients, manifest, reports.name_for(VALIDATION_REPORT, target), judged.to_json())
    if target != THIS_MACHINE:
        stands = read_validation(clients, manifest)
        if stands is None or stands.target != THIS_MACHINE:  # there is nothing yet that it would replace
            reports.keep(clients, manifest, VALIDATION_REPORT, judged.to_json())
    return judged


def require_sound(manifest: Manifest, judged: Validation) -> None:
    """The gate: raise DoesNotFit for a model that is only too large, ModelRejected for one that is rejected
    otherwise."""
    what = manifest.id.short
    rejecting = [finding for finding in judged.findings if finding.severity is Severity.REJECT]
    if rejecting and all(finding.rule == "compatibility.memory" for finding in rejecting):
        raise DoesNotFit(f"{what}: {rejecting[0].message}", cure=rejecting[0].cure)
    require_accepted(what, judged.verdict, judged.findings)


def read_validation(clients: Clients, manifest: Manifest) -> Validation | None:
    return reports.read(clients, manifest, VALIDATION_REPORT, Validation.from_json)


def _configuration(path: Path, manifest: Manifest, model: ModelFacts | None) -> Iterator[Finding]:
    """The repository's own configuration against the header, where both speak."""
    config = get_model_config(path)
    for key, ours in (
        ("vocab_size", model.vocab_size if model else None),
        ("max_position_embeddings", model.context_length if model else None),
    ):
        said = config.get(key)
        if ours and said and said != ours:
            message = f"config.json says {key} {said}, and the GGUF {ours}"
            yield Finding(
                "configuration.conflict", Severity.WARN, message, key, "trust the GGUF: the engine reads nothing else"
            )
    reason = why_unsupported(config, manifest.repository)
    if reason:
        # Not more than a warning: the engine was asked for the GGUF's own architecture, and never reads this file.
        yield Finding("compatibility.configuration", Severity.WARN, reason, "config.json", "trust the GGUF")


def _memory(found: Preflight) -> Iterator[Finding]:
    plan = found.plan
    if not plan.fits:
        yield Finding(
            "compatibility.memory",
            Severity.REJECT,
            f"it takes {human_bytes(plan.memory.total_bytes)} at {plan.context_tokens} tokens of context, and"
            f" {human_bytes(plan.missing_bytes)} are missing",
            "memory",
            found.advice,
        )


def _licence(manifest: Manifest) -> Iterator[Finding]:
    if manifest.licence is None:
        yield Finding(
            "licence.stated",
            Severity.WARN,
            "neither the repository nor the file states a licence",
            "license",
            "ask its owner",
        )
