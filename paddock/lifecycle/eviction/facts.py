"""Gather the facts that an eviction is planned from (`paddock.lifecycle.eviction.plan`). Changes nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from paddock.errors import UnsafeName
from paddock.lifecycle.catalog import load_catalog
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.eviction.plan import BlobFacts, SnapshotFacts, VolumeFacts
from paddock.lifecycle.promote.retention import RetainedSnapshot
from paddock.lifecycle.promote.retention import plan as plan_retention
from paddock.model.artifact import Manifest
from paddock.model.names import ModelName, Sha256, parse_sha256
from paddock.model.reference import SnapshotId
from paddock.store.durable import disk_errors_in, names, statuses
from paddock.store.history import Promoted, Promotion
from paddock.store.volume import ORPHAN_AGE_S, RECENT_S, BlobStatus

if TYPE_CHECKING:
    from paddock.lifecycle.catalog import Catalog


@dataclass(frozen=True, slots=True)
class Fetching:
    """A fetch that needs room: its snapshot, and the blobs of it that the volume has already."""

    id: SnapshotId
    blobs: frozenset[Sha256] = frozenset()


@dataclass(frozen=True, slots=True)
class _Needs:
    """Needs of other programs: wishes of the catalog, blobs and the snapshot of transfers."""

    wishes: Catalog | None
    blobs: Collection[Sha256]
    fetching: Fetching | None


def gather(clients: Clients, *, fetching: Fetching | None = None) -> VolumeFacts:
    """The facts of all snapshots and blobs, but for the copies in the remote store. Raises BadSetting for a catalog
    that cannot be read: it may want any of them."""
    needs = _needs(clients, fetching)
    manifests = clients.volume.snapshots()
    named = Counter(file.sha256 for manifest in manifests for file in manifest.files)
    by_model: dict[ModelName, list[Manifest]] = {}
    for manifest in manifests:
        by_model.setdefault(manifest.model, []).append(manifest)
    states = clients.volume.promotions.of_all(by_model)
    snapshots: list[SnapshotFacts] = []
    for model in sorted(by_model):
        snapshots += _facts_of_model(clients, by_model[model], states[model], needs)
    needed = fetching.blobs if fetching else frozenset()
    blobs = {
        status.sha256: _blob_facts(status, named[status.sha256], is_needed=status.sha256 in needed)
        for status in clients.volume.blob_statuses()
    }
    unreadable = tuple(f"the manifest of {id} (pull or remove it)" for id in clients.volume.unreadable())
    return VolumeFacts(tuple(snapshots), blobs, unreadable)


def facts_of(clients: Clients, id: SnapshotId, *, fetching: Fetching | None = None) -> SnapshotFacts | None:
    """The facts of one snapshot as they are now, but for the copy in the remote store; None where it is gone."""
    state = clients.volume.promoted(id.model), clients.volume.history(id.model)
    facts = _facts_of_model(clients, clients.volume.snapshots(id.model), state, _needs(clients, fetching))
    return next((one for one in facts if one.id == id), None)


def in_transfer(partial: Path) -> set[Sha256]:
    """The blobs of which a transfer wrote something in the last hour, to a file of its staging directory."""
    found = set()
    with disk_errors_in(partial):
        keys = names(partial)
    for key in keys:
        with suppress(UnsafeName, OSError):  # not the directory of a digest; or it was removed just now
            sha256 = parse_sha256(key)
            newest = max((status.st_mtime for status in statuses(partial / key)), default=0.0)
            if time.time() - newest < RECENT_S:
                found.add(sha256)
    return found


def _needs(clients: Clients, fetching: Fetching | None) -> _Needs:
    return _Needs(load_catalog(clients.settings), in_transfer(clients.volume.partial), fetching)


def _facts_of_model(
    clients: Clients, manifests: Sequence[Manifest], state: tuple[Promoted, list[Promotion]], needs: _Needs
) -> list[SnapshotFacts]:
    """The facts of all snapshots of one model. `manifests`: the oldest first; `state`: what is promoted, and its
    history."""
    if not manifests:
        return []
    volume, model = clients.volume, manifests[0].model
    promoted, history = state
    targets, pinned = volume.promotions.rollback_targets_in(promoted, history), volume.pins.of(model)
    newest = {manifest.variant: manifest.id for manifest in manifests}
    wishes = {variant: needs.wishes.wish(model, variant) if needs.wishes else None for variant in newest}
    facts = []
    for manifest in manifests:
        id, blobs, age_s = manifest.id, frozenset(file.sha256 for file in manifest.files), volume.age_s(manifest.id)
        is_fetched = needs.fetching is not None and needs.fetching.id == id
        facts.append(
            SnapshotFacts(
                id=id,
                blobs=blobs,
                size_bytes=manifest.size_bytes,
                created_at=manifest.created_at,
                last_used=volume.usage.last_used(id),
                default=promoted.default_id == id,
                promoted=promoted.holds(id),
                rollback_target=id in targets,
                pinned=id in pinned,
                in_use_by=tuple(volume.holders(id)),
                wanted=wishes[id.variant] is not None and newest[id.variant] == id,
                recent=age_s is not None and age_s < RECENT_S,
                in_transfer=is_fetched or not blobs.isdisjoint(needs.blobs),
            )
        )
    protected = {one.id for one in facts if one.protection}
    surplus: set[SnapshotId] = set()
    for variant, wish in wishes.items():
        keep = clients.settings.keep_revisions if wish is None or wish.keep is None else wish.keep
        of_variant = [manifest for manifest in manifests if manifest.variant == variant]
        surplus |= _surplus(of_variant, keep=keep, protected=protected)
    return [replace(one, surplus=one.id in surplus) for one in facts]


def _surplus(manifests: Iterable[Manifest], *, keep: int, protected: Collection[SnapshotId]) -> set[SnapshotId]:
    """The snapshots of one variant that retention does not keep."""
    stored = [RetainedSnapshot(manifest.id, manifest.weights) for manifest in manifests]
    return set(plan_retention(stored, keep=keep, promoted=protected, earlier=(), pinned=(), used=()).remove)


def _blob_facts(status: BlobStatus, named: int, *, is_needed: bool) -> BlobFacts:
    """`named`: the number of files of snapshots that have these bytes, each a hard link or a symbolic one."""
    is_linked_elsewhere = status.links > 1 + named
    can_free = not is_needed and not is_linked_elsewhere and status.age_s >= RECENT_S
    return BlobFacts(status.size_bytes, can_free, status.age_s >= ORPHAN_AGE_S and status.links == 1)
