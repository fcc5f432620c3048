"""The steps that bring a model onto the volume: resolve, preflight, plan, fetch, audit, publish."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import get_run_logger, task

from paddock.errors import ModelRejected
from paddock.lifecycle import acquisition, auditing, delivery
from paddock.lifecycle.acquisition import Plan, Published
from paddock.lifecycle.auditing import Audited
from paddock.lifecycle.delivery import Acquired, Row
from paddock.lifecycle.listing import resolve as resolve_revision
from paddock.lifecycle.locating import wanted_quantization
from paddock.lifecycle.preflight import Chosen, choose_fitting
from paddock.model.artifact import Listing
from paddock.model.finding import Verdict
from paddock.model.reference import Reference
from paddock.model.units import human_bytes
from paddock.planning.plan import Wish
from paddock.planning.targets import parse_target
from tasks import policies, record
from tasks.subject import Subject
from tasks.wiring import parts, reference


@task(task_run_name="resolve-{revision}", **policies.HUB)
def resolve(model: str, revision: str) -> Listing:
    """Turn a branch or tag into a commit, and list its files. Everything after this carries the commit."""
    wanted = reference(model, revision)
    listing = resolve_revision(parts(), wanted.model, wanted.ref or "main")
    get_run_logger().info("%s@%s is commit %s, %d files", model, revision, listing.revision, len(listing.files))
    return listing


@task(task_run_name="preflight", **policies.HUB)
def preflight(
    listing: Listing, model: str, quantization: str, context_tokens: int, target: str, *, projector: bool
) -> Chosen:
    """Audit the header, ask the engine what the model would take, and choose the quantization that fits the target.
    What does not fit, or is no sound model, fails here, before a weight is fetched."""
    wish = Wish(context_tokens, at_most_trained=True)
    wanted = wanted_quantization(Reference.parse(model).variant, quantization)
    subject = Subject.of_model(listing.model, target)
    try:
        chosen = choose_fitting(
            parts(), listing, wish, target=parse_target(target), quantization=wanted, projector=projector
        )
    except ModelRejected as error:
        record.findings(subject, Verdict.REJECT, error.findings)
        raise
    for note in chosen.notes:
        get_run_logger().warning("%s", note)
    if chosen.preflight:
        record.preflight(subject, chosen.preflight)
        get_run_logger().info("%s", chosen.preflight.line)
        chosen.preflight.require_fit()
    return chosen


@task(task_run_name="plan", **policies.STORE)
def plan(listing: Listing, chosen: Chosen, target: str) -> Plan:
    """Say where each file will come from, and see that there is room."""
    known = parts()
    known.volume.prepare()
    drawn = acquisition.plan(known, listing, chosen.choice)
    known.volume.check_names(drawn.id.model, drawn.id.variant)
    known.volume.require_room(drawn.need_bytes)
    record.files(Subject.of(drawn.id, target), drawn)
    return drawn


@task(task_run_name="fetch-{row.file.path}", **policies.TRANSFER)
def fetch_file(listing: Listing, row: Row, download: record.Download) -> Acquired:
    """Bring one file onto the volume, verified while it is written; a later try takes up what an earlier one left."""
    acquired = delivery.acquire_file(parts(), listing, row, progress=download.moved)
    moved = human_bytes(acquired.transferred_bytes)
    get_run_logger().info("%s: %s fetched, from %s", row.file.path, moved, acquired.origin)
    return acquired


@task(task_run_name="audit", **policies.LOCAL)
def audit(drawn: Plan, acquired: Sequence[Acquired], target: str) -> Audited:
    """Read the GGUF's header and its chat template, and judge them before anything is published."""
    audited = auditing.audit_acquired(parts(), drawn.listing, drawn.choice, acquired)
    record.findings(Subject.of(drawn.id, target), audited.audit.verdict, audited.audit.findings)
    return audited


@task(task_run_name="publish", **policies.LOCAL)
def publish(drawn: Plan, acquired: Sequence[Acquired], audited: Audited) -> Published:
    """Make the snapshot visible, its manifest last."""
    published = acquisition.publish(parts(), drawn, acquired, audited=audited)
    fetched = human_bytes(published.transferred_bytes)
    get_run_logger().info("published %s: %s fetched", drawn.id, fetched)
    return published
