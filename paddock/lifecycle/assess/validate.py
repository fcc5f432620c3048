"""Validate a snapshot on the volume: every check, joined into one verdict.

The checks: the integrity of the stored files, the audit of the GGUF and its chat template, the model's own
configuration against it, the expectations on its tables, whether the engine knows its architecture, and the memory that
the engine says it will take. The result is kept with the volume's reports.
"""

from __future__ import annotations

import contextvars
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paddock.chat.template import DERIVED_FILES
from paddock.engine.facts import engine_version
from paddock.engine.oracle import Memory
from paddock.engine.parameters import Parameters
from paddock.errors import DoesNotFit
from paddock.gguf.directory import get_gguf_file_path
from paddock.lifecycle import reports
from paddock.lifecycle.assess.audit import audit_paths, require_accepted, shards_of
from paddock.lifecycle.assess.chat_template import check_chat_template
from paddock.lifecycle.assess.data_docs import write_data_docs
from paddock.lifecycle.assess.preflight import Preflight, idle_machine, preflight
from paddock.lifecycle.assess.verified import open_snapshot
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.locate import locate
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.steps import Runner, step
from paddock.model.artifact import Manifest
from paddock.model.finding import Finding, Severity, Verdict, verdict_of
from paddock.model.quantization import is_gguf
from paddock.model.reference import Reference
from paddock.model.units import human_bytes
from paddock.planning.placement import Target
from paddock.planning.plan import PlanRequest
from paddock.planning.targets import THIS_MACHINE, parse_target
from paddock.store import repair
from paddock.validation.audit import Audit, ModelFacts
from paddock.validation.companions import check_companions
from paddock.validation.compatibility import why_unsupported
from paddock.validation.configuration import get_model_config
from paddock.validation.integrity import DAMAGED, check_stored

VALIDATION_REPORT = "judgement.json"


@dataclass(frozen=True, slots=True)
class Validation:
    """The verdict on a snapshot, the findings that led to it, and the memory that it takes with `context_tokens`.

    `given_up` are the deviations of the plan from the request, and `parameters` are the plan's; None in a report of an
    older version, as `engine` is, the version of the engine that was asked.
    """

    verdict: Verdict
    findings: tuple[Finding, ...]
    model: ModelFacts | None
    memory: Memory
    context_tokens: int
    given_up: tuple[str, ...] = ()
    target: str = THIS_MACHINE
    parameters: Parameters | None = None
    engine: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "verdict": str(self.verdict),
            "findings": [finding.to_json() for finding in self.findings],
            "model": asdict(self.model) if self.model else None,
            "memory": self.memory.to_json(),
            "context_tokens": self.context_tokens,
            "given_up": list(self.given_up),
            "target": self.target,
            "parameters": self.parameters.to_json() if self.parameters else None,
            "engine": self.engine,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Validation:
        return cls(
            verdict=Verdict(value["verdict"]),
            findings=tuple(Finding.from_json(finding) for finding in value["findings"]),
            model=ModelFacts.from_json(value["model"]) if value["model"] else None,
            memory=Memory.from_json(value["memory"]),
            context_tokens=value["context_tokens"],
            given_up=tuple(value.get("given_up", ())),
            target=value.get("target", THIS_MACHINE),
            parameters=Parameters.from_json(value["parameters"]) if value.get("parameters") else None,
            engine=value.get("engine"),
        )


@dataclass(frozen=True, slots=True)
class Structure:
    """The audit of a stored snapshot's GGUF, and the findings on its bytes, followed by those of the audit."""

    audit: Audit
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        return verdict_of(self.findings)


@dataclass(frozen=True, slots=True)
class Compatibility:
    """The preflight of a stored snapshot, and a finding where it does not fit."""

    preflight: Preflight
    findings: tuple[Finding, ...]


def validate(runner: Runner, wanted: Reference, context_tokens: int, *, target: str = THIS_MACHINE) -> Validation:
    """Validate a snapshot on the volume: integrity, structure and templates, configuration, expectations, and
    compatibility with the engine and the memory of `target`. For a model that was trained for less than
    `context_tokens`, its trained context counts.

    Raises ModelRejected for a damaged or rejected model, and DoesNotFit for one that is only too large.
    """
    machine = parse_target(target)
    manifest = runner.run(locate, wanted)
    stored = runner.run(check_integrity, manifest)
    structure = runner.run(check_structure, manifest, stored)
    require_accepted(manifest.id.short, structure.verdict, structure.findings)  # the engine loads no rejected file
    configuration = runner.run(check_configuration, manifest, structure.audit)
    with ThreadPoolExecutor(1, thread_name_prefix="paddock-docs") as beside:
        # The import of great-expectations takes seconds of processor time: beside steps that wait for other processes.
        context = contextvars.copy_context()
        writing = beside.submit(lambda: context.run(lambda: runner.run(write_data_docs, manifest)))
        chat = runner.run(check_chat_template, manifest, structure.audit)
        compatibility = runner.run(check_compatibility, manifest, context_tokens, target=machine)
    data_docs = writing.result()
    findings = (*stored, *configuration, *chat.findings, *data_docs.findings)
    validation = runner.run(conclude, manifest, structure.audit, compatibility, findings, target=target)
    require_sound(manifest, validation)
    return validation


@step(Kind.LOCAL, "integrity")
def check_integrity(clients: Clients, manifest: Manifest) -> tuple[Finding, ...]:
    """Read every file of a snapshot once, and check its digest and its weights. A damaged blob is quarantined, so that
    the next pull of the snapshot fetches it again."""
    snapshot = clients.volume.snapshot_path(manifest.id)
    findings: list[Finding] = []
    for file in manifest.files:
        of_file = list(
            check_stored(
                snapshot / file.path, file, segment_bytes=manifest.segment_bytes, cure=repair.cure_of(manifest.id)
            )
        )
        if any(finding.rule in DAMAGED for finding in of_file):
            repair.quarantine(clients.volume, file.sha256, found_at=snapshot / file.path)
        findings += of_file
    return tuple(findings)


@step(Kind.LOCAL, "structure")
def check_structure(clients: Clients, manifest: Manifest, stored: Sequence[Finding]) -> Structure:
    """Audit the header and the chat templates of the GGUF; `stored` are the findings of `check_integrity`."""
    audit = audit_snapshot(clients, manifest)
    return Structure(audit, (*stored, *audit.findings))


def audit_snapshot(clients: Clients, manifest: Manifest) -> Audit:
    """Audit the header and the chat templates of a stored snapshot's model."""
    snapshot = clients.volume.snapshot_path(manifest.id)
    return audit_paths([(name, snapshot / name) for name in shards_of(snapshot)])


@step(Kind.LOCAL, "configuration")
def check_configuration(clients: Clients, manifest: Manifest, audit: Audit) -> tuple[Finding, ...]:
    """Compare the repository's `config.json` with the GGUF's header, and require that a licence is stated. The small
    files beside the GGUF are warned of at most: the engine never reads them."""
    path = clients.volume.snapshot_path(manifest.id)
    small_files = [file.path for file in manifest.files if not is_gguf(file.path) and file.path not in DERIVED_FILES]
    return (
        *check_companions(path, small_files),
        *_configuration(path, manifest, audit.model),
        *_licence(manifest),
    )


@step(Kind.ENGINE, "compatibility", warnings=lambda found: found.preflight.plan.given_up)
def check_compatibility(
    clients: Clients, manifest: Manifest, context_tokens: int, *, target: Target | None = None
) -> Compatibility:
    """Compare the memory that the engine predicts for an audited model with that of `target`, by default this machine.
    For a model that was trained for less than `context_tokens`, its trained context counts.

    Raises ModelRejected for a model that kills the engine.
    """
    request = PlanRequest(context_tokens, at_most_trained=True)
    with open_snapshot(clients, manifest) as opened:
        path, machine = get_gguf_file_path(opened.directory), idle_machine()
        result = preflight(clients, str(path), request, target=target, machine=machine, name=str(manifest.id))
    return Compatibility(result, tuple(_memory(result)))


@step(Kind.LOCAL, "verdict", line=lambda validation: f"the verdict is {validation.verdict}")
def conclude(
    clients: Clients,
    manifest: Manifest,
    audit: Audit,
    compatibility: Compatibility,
    other_findings: Sequence[Finding],
    *,
    target: str = THIS_MACHINE,
) -> Validation:
    """Join all findings into one verdict, and write it to the volume's reports.

    `other_findings` are those of the checks that are not an argument. The result for another `target` than this machine
    has a report of its own. Raises nothing for a bad model; `require_sound` does.
    """
    findings = (*other_findings, *audit.findings, *compatibility.findings)
    plan = compatibility.preflight.plan
    validation = Validation(
        verdict_of(findings),
        findings,
        audit.model,
        plan.memory,
        plan.context_tokens,
        plan.given_up,
        target,
        plan.parameters,
        engine_version(),
    )
    reports.write(clients, manifest, reports.file_name(VALIDATION_REPORT, target), validation.to_json())
    if target != THIS_MACHINE:
        current = read_validation(clients, manifest)
        if current is None or current.target != THIS_MACHINE:  # there is no result for this machine to replace
            reports.write(clients, manifest, VALIDATION_REPORT, validation.to_json())
    return validation


def require_sound(manifest: Manifest, validation: Validation) -> None:
    """Raise DoesNotFit for a model that is only too large, and ModelRejected for one that is rejected by another
    rule."""
    what = manifest.id.short
    rejecting = [finding for finding in validation.findings if finding.severity is Severity.REJECT]
    if rejecting and all(finding.rule == "compatibility.memory" for finding in rejecting):
        raise DoesNotFit(f"{what}: {rejecting[0].message}", cure=rejecting[0].cure)
    require_accepted(what, validation.verdict, validation.findings)


def read_validation(clients: Clients, manifest: Manifest) -> Validation | None:
    """The last validation on the volume, else in the remote store."""
    return reports.read(clients, manifest, VALIDATION_REPORT, Validation.from_json, own_first=True)


def _configuration(path: Path, manifest: Manifest, model: ModelFacts | None) -> Iterator[Finding]:
    """Findings on values that `config.json` and the GGUF's header both state."""
    config = get_model_config(path)
    for key, from_header in (
        ("vocab_size", model.vocab_size if model else None),
        ("max_position_embeddings", model.context_length if model else None),
    ):
        configured = config.get(key)
        if from_header and configured and configured != from_header:
            message = f"config.json states {key} {configured}, and the GGUF {from_header}"
            yield Finding(
                "configuration.conflict", Severity.WARN, message, key, "trust the GGUF: the engine reads nothing else"
            )
    reason = why_unsupported(config, manifest.repository)
    if reason:
        # A warning at most: the engine knows the GGUF's own architecture, and never reads this file.
        yield Finding("compatibility.configuration", Severity.WARN, reason, "config.json", "trust the GGUF")


def _memory(result: Preflight) -> Iterator[Finding]:
    plan = result.plan
    if not plan.fits:
        yield Finding(
            "compatibility.memory",
            Severity.REJECT,
            f"it takes {human_bytes(plan.memory.total_bytes)} at {plan.context_tokens} tokens of context, and"
            f" {human_bytes(plan.missing_bytes)} are missing",
            "memory",
            result.advice,
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
