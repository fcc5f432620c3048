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
from paddock.lifecycle.preflight import choose_fitting
from paddock.model.artifact import Listing
from paddock.model.finding import Verdict
from paddock.model.names import ModelName
from paddock.model.units import human_bytes
from paddock.planning.choice import Choice
from paddock.planning.plan import Wish
from paddock.planning.targets import parse_target
from tasks import policies, record
from tasks.wiring import parts


@task(task_run_name="resolve-{revision}", **policies.HUB)
def resolve(model: str, revision: str) -> Listing:
    """Turn a branch or tag into a commit, and list its files. Everything after this carries the commit."""
    listing = resolve_revision(parts(), ModelName.parse(model), revision)
    get_run_logger().info("%s@%s is commit %s, %d files", model, revision, listing.revision, len(listing.files))
    return listing


@task(task_run_name="preflight", **policies.HUB)
def preflight(listing: Listing, quantization: str, context_tokens: int, target: str, *, projector: bool) -> Choice:
    """Audit the header, ask the engine what the model would take, and choose the quantization that fits the target.
    What does not fit, or is no sound model, fails here, before a weight is fetched."""
    wish = Wish(context_tokens, at_most_trained=True)
    try:
        choice, found = choose_fitting(
            parts(), listing, wish, target=parse_target(target), quantization=quantization, projector=projector
        )
    except ModelRejected as error:
        record.findings(listing.model, Verdict.REJECT, error.findings)
        raise
    if found:
        record.preflight(listing.model, found)
        get_run_logger().info("%s", found.line)
        found.require_fit()
    return choice


@task(task_run_name="plan", **policies.STORE)
def plan(listing: Listing, choice: Choice) -> Plan:
    """Say where each file will come from, and see that there is room."""
    known = parts()
    known.volume.prepare()
    drawn = acquisition.plan(known, listing, choice)
    acquisition.require_place(known, drawn)
    known.volume.require_room(drawn.need_bytes)
    record.files(listing.model, drawn)
    return drawn


@task(task_run_name="fetch-{row.file.path}", **policies.TRANSFER)
def fetch_file(listing: Listing, row: Row, download: record.Download) -> Acquired:
    """Bring one file onto the volume, verified while it is written; a later try takes up what an earlier one left."""
    acquired = delivery.acquire_file(parts(), listing, row, progress=download.moved)
    moved = human_bytes(acquired.transferred_bytes)
    get_run_logger().info("%s: %s fetched, from %s", row.file.path, moved, acquired.origin)
    return acquired


@task(task_run_name="audit", **policies.LOCAL)
def audit(drawn: Plan, acquired: Sequence[Acquired]) -> Audited:
    """Read the GGUF's header and its chat template, and judge them before anything is published."""
    model = drawn.listing.model
    audited = auditing.audit_acquired(parts(), drawn.listing, drawn.choice, acquired)
    record.findings(model, audited.audit.verdict, audited.audit.findings)
    return audited


@task(task_run_name="publish", **policies.LOCAL)
def publish(drawn: Plan, acquired: Sequence[Acquired], audited: Audited) -> Published:
    """Make the snapshot visible, its manifest last."""
    published = acquisition.publish(parts(), drawn.listing, drawn.choice, acquired, audited=audited)
    fetched = human_bytes(published.transferred_bytes)
    get_run_logger().info("published %s@%s: %s fetched", drawn.listing.model, drawn.listing.revision, fetched)
    return published
