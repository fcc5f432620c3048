"""The steps that bring a snapshot back from S3: find, plan, fetch, audit, publish."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import get_run_logger, task

from paddock.lifecycle import acquisition, restoration
from paddock.lifecycle.acquisition import Plan, Published
from paddock.lifecycle.auditing import Audited
from paddock.lifecycle.delivery import Acquired, Row
from paddock.model.artifact import Manifest
from paddock.model.names import ModelName
from paddock.model.units import human_bytes
from tasks import policies, record
from tasks.wiring import parts


@task(task_run_name="reach", **policies.TRANSFER)
def reach(model: str, revision: str | None) -> Manifest:
    """Find the snapshot on this worker's volume, or bring it there from S3."""
    manifest = restoration.reach(parts(), ModelName.parse(model), revision)
    get_run_logger().info("%s@%s is on the volume", model, manifest.revision)
    return manifest


@task(task_run_name="find", **policies.STORE)
def find(model: str, revision: str | None) -> Manifest:
    """Find the snapshot in S3: that of a revision, else what is promoted there."""
    manifest = restoration.find(parts(), ModelName.parse(model), revision)
    get_run_logger().info("%s@%s is in S3, %s", model, manifest.revision, human_bytes(manifest.size_bytes))
    return manifest


@task(task_run_name="plan", **policies.LOCAL)
def plan(manifest: Manifest, *, promote: bool) -> Plan:
    """Say which files S3 must send, and see that there is room and place for them."""
    known = parts()
    known.volume.prepare()
    drawn = restoration.plan(known, manifest)
    acquisition.require_place(known, drawn, replace_promoted=promote)
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
    record.findings(drawn.listing.model, audited.audit.verdict, audited.audit.findings)
    return audited


@task(task_run_name="publish", **policies.LOCAL)
def publish(manifest: Manifest, acquired: Sequence[Acquired], audited: Audited) -> Published:
    """Make the snapshot visible, its manifest last."""
    return restoration.publish(parts(), manifest, acquired, audited)
