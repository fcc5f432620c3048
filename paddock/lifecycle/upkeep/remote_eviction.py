"""Clean up the remote store: remove snapshots that nothing needs, down to a budget, then blobs that nothing names.

| kept | why |
|---|---|
| snapshots that are promoted in the remote store, or were before | they are served, or a rollback goes back to them |
| snapshots and blobs that a volume has (`paddock.store.holdings`) | another worker may rely on the copy, or share it |
| snapshots that were used in the last week, or published in the last hour | they may be needed again |

The rest goes as on the volume: rejected ones first, then the least recently used. A blob that no manifest names any
more is first marked, and removed by a clean-up after the grace period (`paddock.store.remote.removal_marks`): another
worker may be about to publish it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from paddock.errors import InUse
from paddock.lifecycle.assess.validate import read_validation
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.counts import count_evicted
from paddock.lifecycle.eviction.evicted import Evicted, EvictionRow
from paddock.lifecycle.eviction.plan import BlobFacts, EvictionPlan, SnapshotFacts, VolumeFacts, plan
from paddock.lifecycle.holdings import holdings_of, share_holdings
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.steps import step
from paddock.model.artifact import Manifest
from paddock.model.finding import Verdict
from paddock.model.names import Sha256
from paddock.model.reference import SnapshotId
from paddock.model.units import human_time, parse_bytes
from paddock.store.holdings import Holdings
from paddock.store.protocol import RemoteStore
from paddock.store.usage import total_by
from paddock.store.volume import RECENT_S

GRACE_S = 7 * 24 * 3600.0
"""How long after it was marked a blob is removed."""
_USED_LATELY = timedelta(days=7)

log = logging.getLogger(__name__)
LastUsed = Callable[[SnapshotId], datetime | None]


@dataclass(frozen=True, slots=True)
class _RemoteFacts:
    """The snapshots, and the blobs that are named or held. `unneeded` are the other blobs, with their sizes."""

    volume: VolumeFacts
    unneeded: Mapping[Sha256, int]
    notes: tuple[str, ...]


@step(Kind.STORE, "evict-remote", line=lambda evicted: evicted.line if evicted else "PADDOCK_S3_URI is not set")
def evict_remote(
    clients: Clients,
    *,
    keep_bytes: int | None = None,
    dry_run: bool = False,
    last_used: LastUsed | None = None,
    grace_s: float = GRACE_S,
) -> Evicted | None:
    """Remove what nothing needs from the remote store, down to `keep_bytes` of blobs, by default
    PADDOCK_S3_KEEP_BYTES; without either, only blobs that nothing names. None where no remote store is set.

    `last_used` says when a worker used a snapshot last, by default by what all workers recorded in the remote store;
    one that was never used goes by its publication. Raises StoreUnavailable and StoreRefused.
    """
    remote = clients.remote
    if remote is None:
        return None
    budget_bytes = keep_bytes
    if budget_bytes is None and clients.settings.s3_keep_bytes is not None:
        budget_bytes = parse_bytes(clients.settings.s3_keep_bytes)
    if not dry_run:
        share_holdings(clients)
    last_used = last_used or _last_uses(remote)
    facts = _gather(clients, remote, last_used)
    planned = plan(facts.volume, budget_bytes=budget_bytes)
    removed = [EvictionRow(one.snapshot.id, one.frees_bytes, one.reason) for one in planned.remove]
    kept = [EvictionRow(one.id, one.size_bytes, reason) for one, reason in planned.kept]
    if not dry_run:
        removed, skipped = _remove_snapshots(clients, remote, planned)
        kept += skipped
        facts = _gather(clients, remote, last_used)
    gone = _remove_blobs(clients, remote, facts, grace_s=grace_s, dry_run=dry_run)
    freed_bytes = sum(facts.unneeded[sha256] for sha256 in gone)
    pending_bytes = sum(facts.unneeded.values()) - freed_bytes
    left_bytes = facts.volume.used_bytes
    if dry_run:
        pending_bytes += planned.frees_bytes
        left_bytes = planned.left_bytes
    return Evicted(
        where=remote.label,
        plan=planned,
        removed=tuple(removed),
        kept=tuple(kept),
        freed_bytes=freed_bytes,
        used_bytes=left_bytes,
        budget_bytes=budget_bytes,
        orphans=len(gone),
        orphan_bytes=freed_bytes,
        pending_bytes=pending_bytes,
        notes=facts.notes,
        is_dry_run=dry_run,
    )


def _last_uses(remote: RemoteStore) -> LastUsed:
    totals = total_by(remote.usage(), lambda row: row.id)
    return lambda id: totals[id].last if id in totals else None


def _gather(clients: Clients, remote: RemoteStore, last_used: LastUsed) -> _RemoteFacts:
    holdings, unreadable, notes = _holdings(clients, remote)
    manifests = remote.snapshots()
    if remote.named_blobs() is None:
        unreadable = (*unreadable, f"a manifest in {remote.label}")
    named = {file.sha256 for manifest in manifests for file in manifest.files}
    held = {sha256 for one in holdings for sha256 in one.blobs}
    stored = remote.blobs()
    blobs = {
        sha256: BlobFacts(size, can_free=sha256 not in held)
        for sha256, size in stored.items()
        if sha256 in named or sha256 in held or unreadable
    }
    unneeded = {sha256: size for sha256, size in stored.items() if sha256 not in blobs}
    promoted, previous = set(), set()
    for model in {manifest.model for manifest in manifests}:
        promoted |= set(remote.promoted(model).ids)
        previous |= set(remote.previous(model))
    facts = [
        _facts(clients, one, holdings, last_used(one.id), promoted=promoted, previous=previous) for one in manifests
    ]
    return _RemoteFacts(VolumeFacts(tuple(facts), blobs, unreadable), unneeded, notes)


def _holdings(clients: Clients, remote: RemoteStore) -> tuple[list[Holdings], tuple[str, ...], tuple[str, ...]]:
    """(what all volumes have, what cannot be read of it, notes on volumes that are gone)."""
    stored = {name: one for name, one in remote.holdings().items() if name != clients.volume.identity.known()}
    unreadable = tuple(
        f"{remote.label}/holdings/{name}.json (remove it if that volume is gone)"
        for name, one in sorted(stored.items())
        if one is None
    )
    others = [one for _, one in sorted(stored.items()) if one is not None]
    notes = tuple(
        f"what {one.worker} had is not kept: it told last {human_time(one.age_s)} ago" for one in others if one.is_stale
    )
    return [holdings_of(clients), *(one for one in others if not one.is_stale)], unreadable, notes


def _facts(
    clients: Clients,
    manifest: Manifest,
    holdings: Sequence[Holdings],
    last_used: datetime | None,
    *,
    promoted: Set[SnapshotId],
    previous: Set[SnapshotId],
) -> SnapshotFacts:
    id, now = manifest.id, datetime.now(UTC)
    facts = SnapshotFacts(
        id=id,
        blobs=frozenset(file.sha256 for file in manifest.files),
        size_bytes=manifest.size_bytes,
        created_at=manifest.created_at,
        last_used=last_used,
        promoted=id in promoted,
        rollback_target=id in previous,
        pinned=any(id in one.pinned for one in holdings),
        recent=abs((now - manifest.created_at).total_seconds()) < RECENT_S,
        held_by=tuple(one.worker for one in holdings if id in one.snapshots),
        used_lately=last_used is not None and now - last_used < _USED_LATELY,
        copied=None,
    )
    if facts.protection:
        return facts
    validation = read_validation(clients, manifest)
    return replace(facts, rejected=validation is not None and validation.verdict is Verdict.REJECT)


def _remove_snapshots(
    clients: Clients, remote: RemoteStore, planned: EvictionPlan
) -> tuple[list[EvictionRow], list[EvictionRow]]:
    """Remove the planned snapshots. Returns (those that were removed, those that are needed by now)."""
    removed, skipped = [], []
    for removal in planned.remove:
        id = removal.snapshot.id
        manifest = remote.snapshot(id)
        try:
            _check_not_held(clients, remote, id)
            remote.remove(id)
            try:
                _check_not_held(clients, remote, id)  # a volume that relies on this copy says so first
            except InUse:
                if manifest is not None:
                    remote.publish(manifest)
                raise
        except InUse as error:
            skipped.append(EvictionRow(id, removal.snapshot.size_bytes, error.message))
            continue
        log.info("%s was removed from %s: %s", id.short, remote.label, removal.reason)
        removed.append(EvictionRow(id, removal.frees_bytes, removal.reason))
    count_evicted(clients, "s3", [row.bytes for row in removed])
    return removed, skipped


def _check_not_held(clients: Clients, remote: RemoteStore, id: SnapshotId) -> None:
    holdings, unreadable, _ = _holdings(clients, remote)
    holders = [*unreadable, *(one.worker for one in holdings if id in one.snapshots)]
    if holders:
        raise InUse(f"{id.short} is on {', on '.join(holders)}")


def _remove_blobs(
    clients: Clients, remote: RemoteStore, facts: _RemoteFacts, *, grace_s: float, dry_run: bool
) -> set[Sha256]:
    """Mark the blobs that nothing needs, and remove those that were marked long enough ago. Returns these."""
    marks = remote.marks()
    due = {
        sha256: marks[sha256]
        for sha256 in facts.unneeded
        if sha256 in marks and marks[sha256].state != "needed" and marks[sha256].age_s >= grace_s
    }
    if dry_run:
        return set(due)
    for sha256 in facts.unneeded:
        mark = marks.get(sha256)
        if mark is None or mark.state == "needed":
            remote.mark_blob(sha256, mark)
    for sha256, mark in marks.items():
        if sha256 not in facts.unneeded:
            remote.unmark_blob(sha256, mark)

    def needed() -> Set[Sha256] | None:
        named, (holdings, unreadable, _) = remote.named_blobs(), _holdings(clients, remote)
        if named is None or unreadable:
            return None
        return set(named).union(*(one.blobs for one in holdings))

    return remote.remove_marked(due, needed=needed)
