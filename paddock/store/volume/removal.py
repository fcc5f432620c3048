"""Remove snapshots, collect orphaned blobs, and sweep what dead writers left.

Order decides what a reader sees, not a lock: first the links go, so that none points at nothing; then each snapshot is
made invisible by one rename; then the blobs go that no other snapshot names. A process that dies in between leaves
orphans, which `collect` finds, and staging names, which `sweep` removes.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from paddock.errors import CorruptFile, InUse, NotOnVolume, PaddockError
from paddock.model.names import ModelName, Revision, Sha256
from paddock.model.reference import SnapshotId, Variant, same_variant
from paddock.model.units import human_time
from paddock.store import durable
from paddock.store.durable import disk_errors
from paddock.store.history import Promoted
from paddock.store.volume.blobs import ORPHAN_AGE_S, Blobs
from paddock.store.volume.file_states import FileStates
from paddock.store.volume.layout import Layout
from paddock.store.volume.links import PromotedLinks
from paddock.store.volume.orphans import OrphanSearch
from paddock.store.volume.pins import Pins
from paddock.store.volume.promotions import Promotions
from paddock.store.volume.published import PublishedManifests
from paddock.store.volume.serve_leases import ServeLeases
from paddock.store.volume.snapshots import Snapshots

log = logging.getLogger(__name__)


class Removal:
    def __init__(
        self,
        layout: Layout,
        *,
        blobs: Blobs,
        snapshots: Snapshots,
        states: FileStates,
        published: PublishedManifests,
        links: PromotedLinks,
        promotions: Promotions,
        pins: Pins,
        leases: ServeLeases,
        orphans: OrphanSearch,
    ) -> None:
        self.root = layout.root
        self._layout = layout
        self._blobs = blobs
        self._snapshots = snapshots
        self._states = states
        self._published = published
        self._links = links
        self._promotions = promotions
        self._pins = pins
        self._leases = leases
        self._orphans = orphans

    @disk_errors
    def remove(
        self, model: ModelName, *, variant: Variant | None = None, revision: Revision | None = None
    ) -> tuple[list[SnapshotId], int]:
        """As `Volume.remove`."""
        chosen = [
            id
            for id in self._snapshots.ids(model)
            if (variant is None or same_variant(id.variant, variant)) and revision in {None, id.revision}
        ]
        old = self._snapshots.old(model) if variant is None else []
        old = [directory for directory in old if revision in {None, directory.name}]
        if not chosen and not old:
            name = f"{model}{f':{variant}' if variant else ''}{f'@{revision}' if revision else ''}"
            raise NotOnVolume(f"{name} is not on {self._layout.label}", cure="see `paddock ls`")
        for id in chosen:
            self._check_not_leased(id)
            self._check_not_pinned(id)
        before = self._promotions.current(model)
        self._promotions.remove(chosen)
        self._links.remove_old(model, old)
        named: set[Sha256] = set()
        for id in chosen:
            named |= self._remove_snapshot(id, before)
        self._promotions.remove(chosen)  # another process may have promoted one meanwhile: see `Promotions`
        for directory in old:
            self._snapshots.remove_old(directory)
            with suppress(OSError):
                directory.rmdir()
        return chosen, self._blobs.free(named, self._snapshots.blobs_in_use)

    @disk_errors
    def evict(self, id: SnapshotId, *, recent_s: float) -> int:
        """As `Volume.evict`.

        While the snapshot is made invisible, no promotion of its model changes, and no lease is taken. Where flock does
        nothing, what comes in between is seen by the second look, or sees itself that the snapshot is gone.
        """
        with self._promotions.unchanged(id.model), self._leases.none_taken(id.model):
            self._check_unneeded(id)
            age_s = self._snapshots.age_s(id)
            if age_s is not None and age_s < recent_s:
                raise InUse(f"{id.short} was published {human_time(age_s)} ago", cure="try again later")
            named = self._named(id)
            hidden = self._snapshots.hide(id)
            if hidden is None:
                raise NotOnVolume(f"{id.short} is not on {self._layout.label}", cure="see `paddock ls`")
            try:
                self._check_unneeded(id)
            except (PaddockError, OSError):  # also where that cannot be read
                self._snapshots.restore(hidden, id)
                raise
        self._discard(hidden, id, named)
        return self._blobs.free(named - self._blobs.younger(named, than_s=recent_s), self._snapshots.blobs_in_use)

    @disk_errors
    def collect(self, *, older_than_s: float = ORPHAN_AGE_S) -> int:
        """As `Volume.collect`."""
        candidates = self._blobs.unlinked(older_than_s=older_than_s)
        return self._blobs.free(candidates, self._snapshots.blobs_in_use) if candidates else 0

    @disk_errors
    def sweep(self) -> None:
        """Remove staging names that dead writers left more than a day ago, and orphaned blobs. Blobs that cannot be
        removed stay, with a warning: that only costs space."""
        for directory in self._orphans.staging_directories():
            durable.sweep(directory)
        try:
            self.collect()
        except (PaddockError, OSError) as error:
            log.warning("orphaned blobs stay on %s: %s", self._layout.label, error)

    def _check_not_leased(self, id: SnapshotId) -> None:
        holders = self._leases.holders(id)
        if holders:
            raise InUse(f"{id.short} is in use by {'; '.join(holders)}", cure="stop that server, then remove it")

    def _check_not_pinned(self, id: SnapshotId) -> None:
        if id in self._pins.of(id.model):
            promoted = "is promoted, and " if self._promotions.current(id.model).holds(id) else ""
            raise InUse(f"{id.short} {promoted}is pinned", cure=f"unpin it first (`paddock unpin {id}`)")

    def _check_unneeded(self, id: SnapshotId) -> None:
        self._check_not_leased(id)
        self._check_not_pinned(id)
        if self._promotions.current(id.model).holds(id) or self._links.read(id.model).holds(id):
            raise InUse(f"{id.short} is promoted", cure="promote another revision first")
        if id in self._promotions.rollback_targets(id.model):
            raise InUse(f"{id.short} is the target of a rollback", cure=f"remove it with `paddock rm {id}`")

    def _named(self, id: SnapshotId) -> set[Sha256]:
        """The blobs that a snapshot names. Those of a manifest that cannot be read become orphans."""
        try:
            manifest = self._snapshots.read(id)
        except (CorruptFile, OSError):
            return set()
        return {file.sha256 for file in manifest.files} if manifest else set()

    def _discard(self, hidden: Path, id: SnapshotId, named: set[Sha256]) -> None:
        """Remove a hidden snapshot, and what is kept for it alone. `named` are its blobs."""
        with self._states.all_kept(named):
            durable.remove(hidden)
        self._published.remove(id, visible=lambda: self._snapshots.manifest_content(id))
        for record in (self._layout.data_docs(id), self._layout.usage(id)):
            with suppress(FileNotFoundError):
                self._layout.check_directory(record.parent)
                durable.remove(record)
        self._snapshots.remove_empty_revision(id)

    def _remove_snapshot(self, id: SnapshotId, before: Promoted) -> set[Sha256]:
        """Remove one snapshot, and return the blobs that it named. `before` is what was promoted before the links were
        removed."""
        named = self._named(id)
        try:
            hidden = self._hide_unleased(id)
        except InUse:
            if before.holds(id):
                self._promotions.promote(id, reason="still in use", default=before.default == id.variant)
            raise
        if hidden is not None:
            self._discard(hidden, id, named)
        return named

    def _hide_unleased(self, id: SnapshotId) -> Path | None:
        """Make a snapshot invisible that nobody holds a lease on. The first look keeps it from vanishing for a moment
        under the holder of a lease, the second one decides where flock does nothing."""
        with self._leases.none_taken(id.model):
            self._check_not_leased(id)
            hidden = self._snapshots.hide(id)
            if hidden is not None:
                try:
                    self._check_not_leased(id)
                except (PaddockError, OSError):  # also where that cannot be read
                    self._snapshots.restore(hidden, id)
                    raise
            return hidden
