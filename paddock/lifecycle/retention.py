"""Which revisions of a model stay on the volume: the newest N, and whatever somebody relies on.

What goes is first said as a plan, and then done. It runs after a promotion, so that what was fetched and not promoted
yet is safe until then. S3 keeps every revision.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from paddock.errors import InUse, NotOnVolume
from paddock.lifecycle.parts import Parts
from paddock.model.names import ModelName, Revision

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Retention:
    """What goes, oldest first, and what stays for which reason."""

    remove: tuple[Revision, ...]
    kept: tuple[tuple[Revision, str], ...]


@dataclass(frozen=True, slots=True)
class Pruned:
    removed: tuple[Revision, ...]
    freed_bytes: int


NOTHING = Pruned((), 0)


def plan(
    revisions: Sequence[Revision],
    *,
    keep: int,
    promoted: Revision | None,
    before: Revision | None,
    pinned: Collection[Revision],
    used: Collection[Revision],
) -> Retention:
    """`revisions` are those on the volume, oldest first; `keep` 0 keeps all. `before` is what a rollback goes to."""
    newest = set(revisions[-keep:]) if keep else set(revisions)
    kept, remove = [], []
    for revision in revisions:
        reasons = (
            (revision == promoted, "promoted"),
            (revision in pinned, "pinned"),
            (revision in used, "in use"),
            (revision == before, "what a rollback goes back to"),
            (revision in newest, f"one of the {keep} newest" if keep else "every revision is kept"),
        )
        reason = next((why for holds, why in reasons if holds), None)
        if reason is None:
            remove.append(revision)
        else:
            kept.append((revision, reason))
    return Retention(tuple(remove), tuple(kept))


def plan_for(parts: Parts, model: ModelName) -> Retention:
    volume = parts.volume
    revisions = [manifest.revision for manifest in volume.snapshots(model)]
    return plan(
        revisions,
        keep=parts.settings.keep_revisions,
        promoted=volume.promoted(model),
        before=volume.before(model),
        pinned=volume.pins(model),
        used=[revision for revision in revisions if volume.in_use(model, revision)],
    )


def prune(parts: Parts, model: ModelName) -> Pruned:
    """Remove what the plan says. What somebody began to use meanwhile stays, and what another removed is gone."""
    removed, freed = [], 0
    for revision in plan_for(parts, model).remove:
        try:
            freed += parts.volume.remove(model, revision)
        except (InUse, NotOnVolume) as error:
            log.info("%s", error.message)
            continue
        removed.append(revision)
        log.info("%s@%s was removed: the volume keeps %d", model, revision[:8], parts.settings.keep_revisions)
    return Pruned(tuple(removed), freed)
