"""The steps that bring a snapshot back from S3: find, plan, fetch, audit, publish."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import get_run_logger, task

from paddock.lifecycle import restoration
from paddock.lifecycle.acquisition import Plan, Published
from paddock.lifecycle.auditing import Audited
from paddock.lifecycle.delivery import Acquired, Row
from paddock.model.artifact import Manifest
from paddock.model.units import human_bytes
from tasks import policies, record
from tasks.subject import Subject
from tasks.wiring import parts, reference


@task(task_run_name="reach", **policies.TRANSFER)
def reach(model: str, revision: str | None) -> Manifest:
    """Find the snapshot on this worker's volume, or bring it there from S3."""
    manifest = restoration.reach(parts(), reference(model, revision))
    get_run_logger().info("%s is on the volume", manifest.id)
    return manifest


@task(task_run_name="find", **policies.STORE)
def find(model: str, revision: str | None) -> Manifest:
    """Find the snapshot in S3: that of a revision, else what is promoted there."""
    manifest = restoration.find(parts(), reference(model, revision))
    get_run_logger().info("%s is in S3, %s", manifest.id, human_bytes(manifest.size_bytes))
    return manifest


@task(task_run_name="plan", **policies.LOCAL)
def plan(manifest: Manifest, *, promote: bool) -> Plan:
    """Say which files S3 must send, and see that there is room and place for them."""
    known = parts()
    known.volume.prepare()
    drawn = restoration.plan(known, manifest)
    if promote:
        default = restoration.becomes_default(known, manifest.id)
        known.volume.check_names(manifest.model, manifest.variant, default=default)
    known.volume.require_room(drawn.need_bytes)
    return drawn


@task(task_run_name="fetch-{row.file.path}", **policies.TRANSFER)
def fetch_file(manifest: Manifest, row: Row, download: record.Download) -> Acquired:
    """Bring one file from S3 onto the volume, verified while it is written."""
    return restoration.fetch_file(parts(), manifest, row, progress=download.moved)


@task(task_run_name="audit", **policies.LOCAL)
def audit(drawn: Plan, acquired: Sequence[Acquired]) -> Audited:
    """Judge what came before anything is published: others can write to a bucket."""
    audited = restoration.audit(parts(), drawn, acquired)
    record.findings(Subject.of(drawn.id), audited.audit.verdict, audited.audit.findings)
    return audited


@task(task_run_name="publish", **policies.LOCAL)
def publish(manifest: Manifest, acquired: Sequence[Acquired], audited: Audited) -> Published:
    """Make the snapshot visible, its manifest last."""
    return restoration.publish(parts(), manifest, acquired, audited)


def becomes_default(manifest: Manifest) -> bool:
    """Whether the restored variant becomes the model's default: where it is that in S3, or the volume has none."""
    return restoration.becomes_default(parts(), manifest.id)
