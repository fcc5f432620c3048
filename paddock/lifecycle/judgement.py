"""Judging and measuring a snapshot on the volume, and the reports that are kept of both.

A *judgement* joins every check into one verdict: the integrity of the stored files, the audit of the GGUF, the model's
own configuration against it, what the engine knows, and the memory that it says it will take. A report lies beside the
volume's others under `reports/`, so that a dossier can be written by another worker than the one that measured.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from paddock.engine.oracle import Memory
from paddock.errors import ConflictingConfiguration, DoesNotFit
from paddock.lifecycle.auditing import audit_paths, require_accepted, shards_of
from paddock.lifecycle.loads import note_load
from paddock.lifecycle.parts import Parts
from paddock.lifecycle.preflight import Preflight, idle_machine, preflight
from paddock.lifecycle.speaking import chat_in
from paddock.measure.benchmark import Benchmark
from paddock.measure.benchmark import benchmark as run_benchmark
from paddock.measure.roleplay import Roleplay, measure_roleplay
from paddock.model.artifact import Manifest
from paddock.model.finding import Finding, Severity, Verdict, verdict_of
from paddock.model.quantization import get_gguf_file_path, is_gguf
from paddock.model.units import human_bytes
from paddock.planning.placement import Target
from paddock.planning.plan import Wish
from paddock.validation.audit import Audit, ModelFacts
from paddock.validation.compatibility import why_unsupported
from paddock.validation.configuration import get_model_config
from paddock.validation.integrity import check_stored

_LOG = logging.getLogger(__name__)
_Report = TypeVar("_Report")

JUDGEMENT = "judgement.json"
BENCHMARK = "benchmark.json"


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on a snapshot, what led to it, and what it takes in memory at `context_tokens`."""

    verdict: Verdict
    findings: tuple[Finding, ...]
    model: ModelFacts | None
    memory: Memory
    context_tokens: int

    def to_json(self) -> dict[str, Any]:
        return {
            "verdict": str(self.verdict),
            "findings": [finding.to_json() for finding in self.findings],
            "model": asdict(self.model) if self.model else None,
            "memory": self.memory.to_json(),
            "context_tokens": self.context_tokens,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Judgement:
        return cls(
            verdict=Verdict(value["verdict"]),
            findings=tuple(Finding.from_json(finding) for finding in value["findings"]),
            model=ModelFacts(**value["model"]) if value["model"] else None,
            memory=Memory.from_json(value["memory"]),
            context_tokens=value["context_tokens"],
        )


@dataclass(frozen=True, slots=True)
class Compatibility:
    """What the engine will allocate and with which parameters, and what of it does not fit."""

    preflight: Preflight
    findings: tuple[Finding, ...]


def check_integrity(parts: Parts, manifest: Manifest) -> tuple[Finding, ...]:
    """Read every file of a snapshot once, for its digest and its weights."""
    snapshot = parts.volume.snapshot_path(manifest.model, manifest.revision)
    return tuple(
        finding
        for file in manifest.files
        for finding in check_stored(snapshot / file.path, file, segment_bytes=manifest.segment_bytes)
    )


def audit_snapshot(parts: Parts, manifest: Manifest) -> Audit:
    """Audit the model of a snapshot on the volume by its header and its templates."""
    snapshot = parts.volume.snapshot_path(manifest.model, manifest.revision)
    return audit_paths([(name, snapshot / name) for name in shards_of(snapshot)])


def check_configuration(parts: Parts, manifest: Manifest, audit: Audit) -> tuple[Finding, ...]:
    """The repository's own configuration and its licence, beside what the GGUF says."""
    path = parts.volume.snapshot_path(manifest.model, manifest.revision)
    return (*_configuration(path, manifest, audit.model), *_licence(manifest))


def check_compatibility(
    parts: Parts, manifest: Manifest, context_tokens: int, *, target: Target | None = None
) -> Compatibility:
    """Ask the engine what an audited model will take, beside what `target` has, by default this machine. A model that
    was trained for less context is asked for that.

    Raises ModelRejected for one that the engine dies of.
    """
    path = get_gguf_file_path(parts.volume.snapshot_path(manifest.model, manifest.revision))
    wish = Wish(context_tokens, at_most_trained=True)
    found = preflight(parts, str(path), wish, target=target, machine=idle_machine())
    return Compatibility(found, tuple(_memory(found)))


def judge(
    parts: Parts, manifest: Manifest, audit: Audit, compatibility: Compatibility, beside: Sequence[Finding]
) -> Judgement:
    """Join every check into one verdict, and keep it; `beside` are the findings of integrity and configuration.

    Raises nothing for a bad model: that is `require_sound`.
    """
    findings = (*beside, *audit.findings, *compatibility.findings)
    plan = compatibility.preflight.plan
    judged = Judgement(verdict_of(findings), findings, audit.model, plan.memory, plan.context_tokens)
    _keep(parts, manifest, JUDGEMENT, judged.to_json())
    return judged


def require_sound(manifest: Manifest, judged: Judgement) -> None:
    """The gate: raise DoesNotFit for a model that is only too large, ModelRejected for one that is rejected
    otherwise."""
    what = f"{manifest.repository}@{manifest.revision[:8]}"
    rejecting = [finding for finding in judged.findings if finding.severity is Severity.REJECT]
    if rejecting and all(finding.rule == "compatibility.memory" for finding in rejecting):
        raise DoesNotFit(f"{what}: {rejecting[0].message}", cure=rejecting[0].cure)
    require_accepted(what, judged.verdict, judged.findings)


def benchmark(parts: Parts, manifest: Manifest, context_tokens: int, *, roleplay: bool = False) -> Benchmark:
    """Load the model of a snapshot in the engine's own process, measure it, and keep the result; with `roleplay` also
    how well it plays a character, which takes a minute or more."""
    snapshot = parts.volume.snapshot_path(manifest.model, manifest.revision)
    path, model = get_gguf_file_path(snapshot), audit_snapshot(parts, manifest).model
    context = _context(model, context_tokens)
    known = parts.settings
    with parts.volume.lease(manifest.model, manifest.revision):
        measured = run_benchmark(
            path,
            threads=known.threads,
            context_tokens=context,
            n_prompt=min(256, context // 2),
            n_gen=min(64, context // 4),
            timeout_s=known.engine_timeout_s,
        )
        _keep(parts, manifest, BENCHMARK, measured.to_json())
        if model is not None:
            note_load(parts, manifest, model, measured)
        if roleplay:
            measured = replace(measured, roleplay=_played(parts, manifest, path, context))
            _keep(parts, manifest, BENCHMARK, measured.to_json())
    return measured


def _played(parts: Parts, manifest: Manifest, path: Path, context_tokens: int) -> Roleplay | None:
    """None, and a line in the log, for a model whose window or template is not made for it: that is no fault of its."""
    known = parts.settings
    try:
        return measure_roleplay(
            path,
            chat_in(parts, manifest),
            context_tokens=context_tokens,
            threads=known.threads,
            timeout_s=known.engine_timeout_s,
        )
    except ConflictingConfiguration as error:
        _LOG.warning("the roleplay of %s was not measured: %s", manifest.repository, error.message)
        return None


def read_judgement(parts: Parts, manifest: Manifest) -> Judgement | None:
    return _kept(parts, manifest, JUDGEMENT, Judgement.from_json)


def read_benchmark(parts: Parts, manifest: Manifest) -> Benchmark | None:
    return _kept(parts, manifest, BENCHMARK, Benchmark.from_json)


def _context(model: ModelFacts | None, asked: int) -> int:
    trained = model.context_length if model else None
    return min(asked, trained) if trained else asked


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


def _keep(parts: Parts, manifest: Manifest, name: str, value: dict[str, Any]) -> None:
    kept = {"files": _ggufs(manifest), "report": value}
    parts.volume.write_report(manifest.model, manifest.revision, name, json.dumps(kept, indent=2))


def _kept(parts: Parts, manifest: Manifest, name: str, parse: Callable[[dict[str, Any]], _Report]) -> _Report | None:
    """A report on these very files, or None: another choice of the same commit had reports of its own, and what cannot
    be read any more is made anew by the next run."""
    try:
        kept = json.loads(parts.volume.read_report(manifest.model, manifest.revision, name) or "{}")
        return parse(kept["report"]) if kept.get("files") == _ggufs(manifest) else None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        _LOG.warning("the report %s of %s cannot be read: %s", name, manifest.repository, type(error).__name__)
        return None


def _ggufs(manifest: Manifest) -> dict[str, str]:
    return {file.path: file.sha256 for file in manifest.files if is_gguf(file.path)}
