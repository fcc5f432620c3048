"""The steps that decide what is served, and write down what is known of it."""

from __future__ import annotations

from prefect import get_run_logger, task
from prefect.runtime import flow_run

from paddock.errors import BadSetting
from paddock.lifecycle import judgement, measuring, promotion, retention
from paddock.lifecycle.acquisition import Published
from paddock.lifecycle.dossier import Onboarded, write
from paddock.lifecycle.judgement import Judgement
from paddock.lifecycle.locating import locate, shown_at
from paddock.model.artifact import Manifest
from paddock.model.reference import Reference
from paddock.model.units import human_bytes
from tasks import policies, record
from tasks.subject import Subject
from tasks.wiring import parts


@task(task_run_name="promote", **policies.STORE)
def promote(manifest: Manifest, reason: str, *, default: bool) -> None:
    """Move the links on the volume, then tell S3. A later try of the same run does not step twice."""
    done = promotion.promote(parts(), manifest.id, reason=reason, default=default, operation=_operation())
    record.promotion(manifest, done)
    was_so = not done.moves_revision and not done.moves_default
    before = "as it was" if was_so else f"before: {done.previous or 'nothing'}"
    get_run_logger().info("promoted %s, %s", manifest.id, before)


@task(task_run_name="prune", **policies.LOCAL)
def prune(manifest: Manifest) -> None:
    """Remove the snapshots of the variant that are neither among the newest nor needed by anybody."""
    pruned = retention.prune(parts(), manifest.model, manifest.variant)
    if pruned.removed:
        gone = ", ".join(id.short for id in pruned.removed)
        get_run_logger().info("removed %s: %s freed", gone, human_bytes(pruned.freed_bytes))


@task(task_run_name="rollback", **policies.STORE)
def rollback(model: str, reason: str) -> Manifest:
    """Move the links on the volume back to what was promoted before, then tell S3. A later try of the same run does not
    step twice."""
    known = parts()
    wanted = Reference.parse(model)
    if wanted.ref is not None:
        raise BadSetting(f"{model} names a revision", cure="roll back org/name, or a variant of it, org/name:VARIANT")
    done = promotion.rollback(known, wanted.model, wanted.variant, reason=reason, operation=_operation())
    manifest = locate(known, Reference(wanted.model, done.variant, done.revision))
    record.promotion(manifest, done)
    get_run_logger().info("rolled back %s to %s", model, manifest.id)
    return manifest


@task(task_run_name="show-reports", **policies.LOCAL)
def show_reports(manifest: Manifest) -> None:
    """Record what was judged and measured of a snapshot that is promoted now under the keys of its variant."""
    subject = Subject.of(manifest.id)
    judged = judgement.read_judgement(parts(), manifest)
    if judged is not None:
        record.findings(subject, judged.verdict, judged.findings)
    measured = measuring.read_benchmark(parts(), manifest)
    if measured is not None:
        record.benchmark(subject, measured)


@task(task_run_name="dossier", **policies.STORE)
def write_dossier(manifest: Manifest) -> str:
    """Write what is known of the snapshot as one document, on the volume, in S3 and in Prefect; returns where it is."""
    written = write(parts(), manifest)
    record.dossier(Subject.of(manifest.id), written.markdown)
    return written.path


def onboarded(acquired: Published, judged: Judgement, dossier: str, *, promoted: bool) -> Onboarded:
    """Say what was done, in the one line that scripts and people look for."""
    manifest = acquired.manifest
    path = shown_at(parts(), manifest.id, promoted=promoted)
    result = Onboarded(
        model=manifest.repository,
        revision=manifest.revision,
        variant=manifest.variant,
        quantization=manifest.quantization,
        path=str(path),
        dossier=dossier,
        promoted=promoted,
        transferred_bytes=acquired.transferred_bytes,
        context_tokens=judged.context_tokens,
        notes=judged.given_up,
    )
    get_run_logger().info(result.line)
    return result


def _operation() -> str | None:
    """The run that this step belongs to: what is tried again in it is the same operation."""
    return str(flow_run.get_id()) if flow_run.get_id() else None
