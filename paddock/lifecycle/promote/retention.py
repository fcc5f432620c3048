"""Which snapshots of a variant stay on the volume: those with the newest N weights, and whatever somebody relies on.

What goes is first said as a plan, and then done. It runs after a promotion, so that what was fetched and not promoted
yet is safe until then. Commits that differ in nothing but their name count once. S3 keeps every snapshot.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from paddock.errors import InUse, NotOnVolume
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.steps import Kind, step
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
    """What goes, oldest first, and what stays for which reason."""

    remove: tuple[SnapshotId, ...]
    kept: tuple[tuple[SnapshotId, str], ...]


@dataclass(frozen=True, slots=True)
class Pruned:
    """The snapshots that were removed, and the bytes that came free."""

    removed: tuple[SnapshotId, ...]
    freed_bytes: int

    @property
    def line(self) -> str:
        if not self.removed:
            return "no snapshot is older than what is kept"
        gone = ", ".join(id.short for id in self.removed)
        return f"removed {gone}, older than what is kept: {human_bytes(self.freed_bytes)} freed"

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
    """`stored` are the snapshots of one variant, oldest first; `keep` 0 keeps all. `earlier` are those that a rollback
    goes to."""
    newest = _newest_weights(stored, keep)
    kept, remove = [], []
    for one in stored:
        reasons = (
            (one.id in promoted, "promoted"),
            (one.id in pinned, "pinned"),
            (one.id in used, "in use"),
            (one.id in earlier, "what a rollback goes back to"),
            (one.weights in newest, f"one of the {keep} newest" if keep else "every snapshot is kept"),
        )
        reason = next((why for holds, why in reasons if holds), None)
        if reason is None:
            remove.append(one.id)
        else:
            kept.append((one.id, reason))
    return Retention(tuple(remove), tuple(kept))


def plan_for(clients: Clients, model: ModelName, variant: Variant) -> Retention:
    volume = clients.volume
    stored = [RetainedSnapshot(one.id, one.weights) for one in volume.snapshots(model) if one.variant == variant]
    promoted = volume.promoted(model)
    target_of = volume.promotions.rollback_target
    goals = [target_of(model), *(target_of(model, variant) for variant in promoted.revisions)]
    return plan(
        stored,
        keep=clients.settings.keep_revisions,
        promoted=promoted.ids,
        earlier=[goal for goal in goals if goal is not None],
        pinned=volume.pins.of(model),
        used=[one.id for one in stored if volume.in_use(one.id)],
    )


@step(Kind.LOCAL, "prune", line=lambda pruned: pruned.line)
def prune(clients: Clients, model: ModelName, variant: Variant) -> Pruned:
    """Remove what the plan for the variant says. What somebody began to use meanwhile stays, and what
    another removed is gone."""
    removed, freed = [], 0
    for id in plan_for(clients, model, variant).remove:
        try:
            freed += clients.volume.remove(id.model, variant=id.variant, revision=id.revision)[1]
        except (InUse, NotOnVolume) as error:
            log.info("%s", error.message)
            continue
        removed.append(id)
        log.info("%s was removed: the volume keeps %d of a variant", id.short, clients.settings.keep_revisions)
    return Pruned(tuple(removed), freed)


def _newest_weights(stored: Sequence[RetainedSnapshot], keep: int) -> set[frozenset[Sha256]]:
    """The last `keep` distinct weights; all of them for 0."""
    newest: list[frozenset[Sha256]] = []
    for one in reversed(stored):
        if one.weights not in newest and (not keep or len(newest) < keep):
            newest.append(one.weights)
    return set(newest)
