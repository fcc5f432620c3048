"""Map each step to its artifacts: the only place where the result of a step is recorded in Prefect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from paddock.errors import ModelRejected
from paddock.lifecycle.acquire.cache import push_snapshot
from paddock.lifecycle.acquire.plan import plan_files
from paddock.lifecycle.acquire.restore import publish_restored
from paddock.lifecycle.assess.audit import audit_acquired
from paddock.lifecycle.assess.chat_template import check_chat_template
from paddock.lifecycle.assess.data_docs import write_data_docs
from paddock.lifecycle.assess.preflight import choose_fitting
from paddock.lifecycle.assess.validate import check_compatibility, check_structure, conclude, read_validation
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.dossier import refresh_dossier, write_dossier
from paddock.lifecycle.gate_reports import read_gates
from paddock.lifecycle.locate import locate
from paddock.lifecycle.promote.approval import ask
from paddock.lifecycle.promote.compare import compare
from paddock.lifecycle.promote.gating import leave_undecided
from paddock.lifecycle.promote.promote import promote_snapshot, roll_back
from paddock.lifecycle.run.benchmark import read_benchmark, tune
from paddock.lifecycle.run.pictures import draw_pictures, read_pictures
from paddock.lifecycle.run.stored_benchmarks import stands_before
from paddock.lifecycle.steps import Step
from paddock.lifecycle.upkeep.evict import evict
from paddock.lifecycle.upkeep.maintain import summarize
from paddock.lifecycle.upkeep.orphans import clean_orphans
from paddock.lifecycle.upkeep.refresh.refresh import report_refresh
from paddock.lifecycle.upkeep.remote_eviction import evict_remote
from paddock.lifecycle.upkeep.scrub import scrub, scrub_remote
from paddock.lifecycle.upkeep.usage import sum_up_usage
from paddock.model.artifact import Manifest
from paddock.model.finding import Verdict
from paddock.model.reference import Reference, SnapshotId
from tasks import approval_artifacts, artifacts, gate_artifacts, volume_artifacts
from tasks.subject import ArtifactSubject, StoreSubject


@dataclass(frozen=True, slots=True)
class StepRun:
    """A run of a step: its arguments by name, and the target of the flow run. `fetch_seconds` is the duration of the
    flow run's download."""

    clients: Clients
    arguments: Mapping[str, Any]
    target: str
    fetch_seconds: float

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def manifest(self) -> Manifest:
        manifest: Manifest = self["manifest"]
        return manifest

    def subject(self, id: SnapshotId | None = None) -> ArtifactSubject:
        """A snapshot for the run's target, by default that of the step's manifest."""
        return ArtifactSubject.of(self.clients, id or self.manifest.id, self.target)

    @property
    def volume(self) -> StoreSubject:
        return StoreSubject.of_volume(self.clients)

    @property
    def remote(self) -> StoreSubject:
        return StoreSubject.of_remote(self.clients)

    def model_subject(self) -> ArtifactSubject:
        """The model of the step's listing, before a variant is chosen."""
        return ArtifactSubject.of_model(self["listing"].model, self.target)


def record(step: Step[..., Any], run: StepRun, result: Any) -> None:
    """Create the artifacts of a step that succeeded. Most steps have none."""
    recorder = _RECORDERS.get(step)
    if recorder is not None:
        recorder(run, result)


def record_rejection(step: Step[..., Any], run: StepRun, error: ModelRejected) -> None:
    """Create the artifact of the findings of a preflight that rejected a model, before a variant was chosen."""
    if step is choose_fitting:
        artifacts.findings(run.model_subject(), Verdict.REJECT, error.findings)


def _preflight(run: StepRun, chosen: Any) -> None:
    if chosen.preflight:
        artifacts.preflight(run.model_subject(), chosen.preflight)


def _files(run: StepRun, plan: Any) -> None:
    artifacts.files(run.subject(plan.id), plan)


def _audit(run: StepRun, audited: Any) -> None:
    listing = run["listing"]
    id = SnapshotId(listing.model, listing.revision, run["choice"].variant)
    artifacts.findings(run.subject(id), audited.audit.verdict, audited.audit.findings)


def _findings(run: StepRun, result: Any) -> None:
    artifacts.findings(run.subject(), result.verdict, result.findings)


def _restoration(run: StepRun, published: Any) -> None:
    artifacts.restoration(run.subject(), published.acquired, published.evicted, seconds=run.fetch_seconds)


def _promotion(run: StepRun, change: Any) -> None:
    """The change, and the verdict and the benchmark of the snapshot that is promoted now."""
    model = run["id"].model if "id" in run.arguments else run["wanted"].model
    manifest = locate(run.clients, Reference(model, change.variant, change.revision))
    subject = run.subject(manifest.id)
    artifacts.promotion(subject, manifest, change)
    validation = read_validation(run.clients, manifest)
    if validation is not None:
        artifacts.findings(subject, validation.verdict, validation.findings)
    measured = read_benchmark(run.clients, manifest)
    if measured is not None:
        artifacts.benchmark(subject, measured, read_pictures(run.clients, manifest))
    gates = read_gates(run.clients, manifest)
    if gates is not None:
        gate_artifacts.gates(subject, gates)


def _benchmark(run: StepRun, drawn: Any) -> None:
    """What has just been measured, with its pictures. A result that does not stand for the snapshot has a key of its
    own, and replaces nothing."""
    measured = run["measured"]
    if measured is None:
        return
    standing = read_benchmark(run.clients, run.manifest)
    stands = standing is None or stands_before(run.clients, run.manifest, measured, standing)
    artifacts.benchmark(run.subject() if stands else run.subject().beside(measured), measured, drawn.pictures)


def _dossier(run: StepRun, dossier: Any) -> None:
    if dossier is not None:
        artifacts.dossier(run.subject(), dossier, read_pictures(run.clients, run.manifest))


_RECORDERS: dict[Step[..., Any], Callable[[StepRun, Any], None]] = {
    choose_fitting: _preflight,
    plan_files: _files,
    audit_acquired: _audit,
    publish_restored: _restoration,
    check_structure: _findings,
    check_chat_template: lambda run, check: artifacts.chat(run.subject(), check),
    write_data_docs: lambda run, docs: artifacts.expectations(run.subject(), docs),
    check_compatibility: lambda run, found: artifacts.memory(run.subject(), found.preflight),
    conclude: _findings,
    push_snapshot: lambda run, copied: artifacts.copy(run.subject(), copied),
    promote_snapshot: _promotion,
    roll_back: _promotion,
    draw_pictures: _benchmark,
    compare: lambda run, report: gate_artifacts.gates(run.subject(), report),
    leave_undecided: lambda run, report: gate_artifacts.gates(run.subject(), report),
    ask: lambda run, question: approval_artifacts.approval(run.subject(), question),
    tune: lambda run, found: artifacts.tuning(run.subject(), found),
    sum_up_usage: lambda run, summary: volume_artifacts.usage(run.volume, summary),
    write_dossier: _dossier,
    refresh_dossier: _dossier,
    clean_orphans: lambda run, found: volume_artifacts.orphans(run.volume, found),
    scrub: lambda run, scrubbed: volume_artifacts.scrub(run.volume, scrubbed),
    scrub_remote: lambda run, scrubbed: volume_artifacts.scrub(run.remote, scrubbed),
    evict: lambda run, evicted: volume_artifacts.eviction(run.volume, evicted),
    evict_remote: lambda run, evicted: volume_artifacts.eviction(run.remote, evicted),
    report_refresh: lambda run, refreshed: volume_artifacts.refresh_report(run.volume, refreshed),
    summarize: lambda run, maintained: volume_artifacts.maintenance(run.volume, maintained),
}
