"""The steps that decide what is served, and write down what is known of it."""

from __future__ import annotations

from prefect import get_run_logger, task

from paddock.lifecycle import promotion, retention
from paddock.lifecycle.acquisition import Published
from paddock.lifecycle.dossier import Onboarded, write
from paddock.model.artifact import Manifest
from paddock.model.names import ModelName
from paddock.model.units import human_bytes
from tasks import policies, record
from tasks.wiring import parts


@task(task_run_name="promote", **policies.STORE)
def promote(manifest: Manifest, reason: str) -> None:
    """Flip the pointer on the volume, then the ref in S3."""
    previous = promotion.promote(parts(), manifest.model, manifest.revision, reason=reason)
    record.promotion(manifest, previous)
    before = "as it was" if previous == manifest.revision else f"before: {previous or 'nothing'}"
    get_run_logger().info("promoted %s@%s, %s", manifest.repository, manifest.revision, before)


@task(task_run_name="prune", **policies.LOCAL)
def prune(model: ModelName) -> None:
    """Remove the revisions that are neither among the newest nor needed by anybody."""
    pruned = retention.prune(parts(), model)
    if pruned.removed:
        gone = ", ".join(revision[:8] for revision in pruned.removed)
        get_run_logger().info("removed %s of %s: %s freed", gone, model, human_bytes(pruned.freed_bytes))


@task(task_run_name="rollback", **policies.LOCAL)
def rollback(model: str, reason: str) -> Manifest:
    """Flip the pointer on the volume back to what was promoted before. Never repeated: each time is a step further
    back."""
    known = parts()
    name = ModelName.parse(model)
    now, until_now = known.volume.rollback(name, reason=reason)
    manifest = promotion.resolve_on_volume(known, name, now)
    record.promotion(manifest, until_now)
    get_run_logger().info("rolled back %s from %s to %s", model, until_now, now)
    return manifest


@task(task_run_name="tell-s3", **policies.STORE)
def tell_s3(manifest: Manifest, reason: str) -> None:
    """Let the ref in S3 follow the pointer on the volume."""
    promotion.tell_s3(parts(), manifest.model, manifest.revision, reason=reason)


@task(task_run_name="dossier", **policies.STORE)
def write_dossier(manifest: Manifest) -> str:
    """Write what is known of the snapshot as one document, on the volume, in S3 and in Prefect; returns where it is."""
    written = write(parts(), manifest)
    record.dossier(manifest.model, written.markdown)
    return written.path


def onboarded(acquired: Published, dossier: str, *, promoted: bool) -> Onboarded:
    """Say what was done, in the one line that scripts and people look for."""
    volume, manifest = parts().volume, acquired.manifest
    path = volume.model_path(manifest.model) if promoted else volume.snapshot_path(manifest.model, manifest.revision)
    result = Onboarded(
        model=manifest.repository,
        revision=manifest.revision,
        quantization=manifest.quantization,
        path=str(path),
        dossier=dossier,
        promoted=promoted,
        transferred_bytes=acquired.transferred_bytes,
    )
    get_run_logger().info(result.line)
    return result
