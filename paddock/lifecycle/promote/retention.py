"""Retention: keep the newest N snapshots of a variant on the volume, and remove older ones that nothing needs.

A pure plan is computed first, then applied. It runs after a promotion, so that a snapshot that was fetched and not yet
promoted is never removed. Snapshots of several commits with the same weights count once. The remote store keeps every
snapshot.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from paddock.errors import InUse, NotOnVolume
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.counts import count_evicted
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.steps import step
from paddock.model.names import ModelName, Sha256
from paddock.model.reference import SnapshotId, Variant
from paddock.model.units import human_bytes

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RetainedSnapshot:
    """A snapshot on the volume. `weights` are the digests of its GGUF files."""

    id: SnapshotId
    weights: frozenset[Sha256]


@dataclass(frozen=True, slots=True)
class Retention:
    """The snapshots to remove, oldest first, and those to keep, each with the reason."""

    remove: tuple[SnapshotId, ...]
    kept: tuple[tuple[SnapshotId, str], ...]


@dataclass(frozen=True, slots=True)
class Pruned:
    """The snapshots that were removed, and the freed bytes."""

    removed: tuple[SnapshotId, ...]
    freed_bytes: int

    @property
    def line(self) -> str:
        if not self.removed:
            return "no old snapshot to remove"
        gone = ", ".join(id.short for id in self.removed)
        return f"removed old snapshots {gone}: {human_bytes(self.freed_bytes)} freed"

    def to_json(self) -> list[dict[str, str]]:
        return [{"model": str(id.model), "revision": id.revision, "variant": id.variant} for id in self.removed]


NOTHING = Pruned((), 0)


def plan(
    stored: Sequence[RetainedSnapshot],
    *,
    keep: int,
    promoted: Collection[SnapshotId],
    earlier: Collection[SnapshotId],
    pinned: Collection[SnapshotId],
    used: Collection[SnapshotId],
) -> Retention:
    """Plan for `stored`, the snapshots of one variant, oldest first. `keep` 0 keeps all; `earlier` are the targets of
    rollbacks, `used` those that are being served."""
    newest = _newest_weights(stored, keep)
    kept, remove = [], []
    for snapshot in stored:
        reasons = (
            (snapshot.id in promoted, "promoted"),
            (snapshot.id in pinned, "pinned"),
            (snapshot.id in used, "in use"),
            (snapshot.id in earlier, "the target of a rollback"),
            (snapshot.weights in newest, f"one of the {keep} newest" if keep else "every snapshot is kept"),
        )
        reason = next((why for holds, why in reasons if holds), None)
        if reason is None:
            remove.append(snapshot.id)
        else:
            kept.append((snapshot.id, reason))
    return Retention(tuple(remove), tuple(kept))


def plan_for(clients: Clients, model: ModelName, variant: Variant) -> Retention:
    volume = clients.volume
    manifests = [manifest for manifest in volume.snapshots(model) if manifest.variant == variant]
    stored = [RetainedSnapshot(manifest.id, manifest.weights) for manifest in manifests]
    promoted = volume.promoted(model)
    target_of = volume.promotions.rollback_target
    targets = [target_of(model), *(target_of(model, variant) for variant in promoted.revisions)]
    return plan(
        stored,
        keep=clients.settings.keep_revisions,
        promoted=promoted.ids,
        earlier=[target for target in targets if target is not None],
        pinned=volume.pins.of(model),
        used=[snapshot.id for snapshot in stored if volume.in_use(snapshot.id)],
    )


@step(Kind.LOCAL, "prune", line=lambda pruned: pruned.line)
def prune(clients: Clients, model: ModelName, variant: Variant) -> Pruned:
    """Apply the plan for the variant. A snapshot that another process promoted or began to serve stays, and one that
    another process removed is skipped."""
    removed, freed = [], list[int]()
    for id in plan_for(clients, model, variant).remove:
        try:
            freed.append(clients.volume.evict(id, recent_s=0))
        except (InUse, NotOnVolume) as error:
            log.info("%s", error.message)
            continue
        removed.append(id)
        log.info(
            "%s was removed: the volume keeps %d snapshots of a variant", id.short, clients.settings.keep_revisions
        )
    count_evicted(clients, "volume", freed)
    return Pruned(tuple(removed), sum(freed))


def _newest_weights(stored: Sequence[RetainedSnapshot], keep: int) -> set[frozenset[Sha256]]:
    """The last `keep` distinct weights; all of them for 0."""
    newest: list[frozenset[Sha256]] = []
    for snapshot in reversed(stored):
        if snapshot.weights not in newest and (not keep or len(newest) < keep):
            newest.append(snapshot.weights)
    return set(newest)
