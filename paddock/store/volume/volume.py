"""Volume: the store on a mounted directory, composed of one class for each concept (blobs, snapshots, pins, ...).

Correctness rests on renames and on the order in which files appear and disappear, never on a lock. The volume transfers
no bytes, and does not verify those that it is given: whoever writes a staged file verifies it while writing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from paddock.errors import PaddockError
from paddock.model.artifact import Manifest
from paddock.model.names import ModelName, Revision, Sha256
from paddock.model.reference import SnapshotId, Variant, same_variant
from paddock.store import durable
from paddock.store.durable import disk_errors, disk_errors_in
from paddock.store.history import Promoted, Promotion
from paddock.store.protocol import Store
from paddock.store.volume.blobs import ORPHAN_AGE_S, RECENT_S, BlobStatus
from paddock.store.volume.file_states import RECORDED_BYTES
from paddock.store.volume.layout import ON_VOLUME
from paddock.store.volume.parts import VolumeParts
from paddock.store.volume.recording import recording
from paddock.store.volume.snapshots import StoredManifest
from paddock.store.volume.stored_snapshot import StoredSnapshot


class Volume(VolumeParts, Store):
    """Call `prepare` before the first write.

    Every method raises the errors of `paddock.errors`, and no OSError.
    """

    def __repr__(self) -> str:
        return f"Volume({str(self.root)!r})"

    @property
    def label(self) -> str:
        return self._layout.label

    @property
    def partial(self) -> Path:
        """The directory where transfers stage their bytes."""
        return self._layout.partial

    def blob_path(self, sha256: Sha256) -> Path:
        return self._layout.blob(sha256)

    def snapshot_path(self, id: SnapshotId) -> Path:
        return self._layout.snapshot(id)

    def model_path(self, model: ModelName, variant: Variant | None = None) -> Path:
        """The link to the promoted snapshot of a variant, or to the model's default variant."""
        return self._layout.variant_link(model, variant) if variant else self._layout.default_link(model)

    @property
    def exists(self) -> bool:
        """Whether something was ever stored on the volume."""
        return self._layout.private.is_dir()

    def prepare(self) -> None:
        """Make the directories that are missing, check that the volume can be written, and remove staging names that
        dead writers left more than a day ago, and orphaned blobs. Raises NoPermission with the path."""
        self.disk.prepare()
        self._removal.sweep()

    # Blobs

    @disk_errors
    def has_blob(self, sha256: Sha256, size: int) -> bool:
        return self._blobs.has(sha256, size)

    @disk_errors
    def add_blob(self, staged: Path, sha256: Sha256, size: int) -> Path:
        """Move a staged file of this volume to its place among the blobs, and return its path. The caller has verified
        its bytes while writing them. `staged` is gone afterwards, also when the blob existed."""
        is_new = not self._blobs.has(sha256, size)
        path = self._blobs.add(staged, sha256, size)
        if is_new and size >= RECORDED_BYTES:
            with suppress(PaddockError):
                self.verifications.record(sha256)
            self.file_states.remember_written(sha256, path)
        return path

    @disk_errors
    def inode(self, path: Path) -> tuple[int, int] | None:
        """(device, inode) of a blob or of a snapshot's file: another one after a repair. None where it is not there."""
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_dev, status.st_ino

    @disk_errors
    def renew_blob(self, sha256: Sha256) -> None:
        """Set a blob's age to zero, so that `collect` does not remove it before it is published. Raises BlobMissing."""
        self._blobs.renew(sha256)

    @disk_errors
    def add_bytes(self, content: bytes) -> Sha256:
        """Add a small derived file as a blob, and return its sha256."""
        return self._blobs.add_bytes(content)

    @disk_errors
    def quarantine(self, sha256: Sha256) -> Path:
        """Move a damaged blob to the quarantine, and return its path there. Snapshots keep their links to the damaged
        bytes until they are published again with the repaired blob, and cannot be leased or promoted until then. Raises
        NotOnVolume."""
        path = self._blobs.quarantine(sha256)
        with suppress(PaddockError):  # another user's record: the next verification replaces it
            self.file_states.forget(sha256)
            self.verifications.forget(sha256, ON_VOLUME)
        return path

    @disk_errors
    def keep_damaged(self, path: Path, sha256: Sha256) -> None:
        """Link a snapshot's damaged file into the quarantine, where its blob is gone, for a repair to take from."""
        self._blobs.keep_damaged(path, sha256)

    @disk_errors
    def add_link(self, path: Path, sha256: Sha256, size: int) -> None:
        """Make a blob again of a snapshot's file, whose bytes the caller has verified."""
        self._blobs.add_link(path, sha256, size)

    @disk_errors
    def quarantined(self, sha256: Sha256) -> list[Path]:
        """The damaged copies of a blob in the quarantine."""
        return self._blobs.quarantined(sha256)

    @disk_errors
    def drop_quarantined(self, sha256: Sha256) -> None:
        """Remove the damaged copies of a blob, once it is repaired. What was no file in its place stays."""
        for path in self._blobs.quarantined(sha256):
            if path.is_symlink() or not path.is_dir():
                durable.remove(path)

    @contextmanager
    def reading_blob(self, sha256: Sha256) -> Iterator[Path]:
        """Map the errors of a block that reads a blob, whose path it yields. Raises BlobMissing where another process
        removed the blob, or moved it for a moment, to see whether it is needed."""
        with disk_errors_in(self.root):
            try:
                yield self._layout.blob(sha256)
            except FileNotFoundError as error:
                if isinstance(error, PaddockError):
                    raise
                raise self._blobs.missing(sha256) from None

    # Snapshots

    @disk_errors
    def snapshot(self, id: SnapshotId) -> Manifest | None:
        return self._snapshots.read(id)

    @disk_errors
    def stored_manifest(self, id: SnapshotId) -> StoredManifest | None:
        """As `snapshot`, with the content of the manifest, and whether its publication is recorded."""
        return self._snapshots.read_stored(id)

    @disk_errors
    def restore_manifest(self, id: SnapshotId) -> bool:
        """Write the manifest of a snapshot again from the record of its publication. False where there is none."""
        return self._snapshots.restore_manifest(id)

    @disk_errors
    def snapshots(self, model: ModelName | None = None) -> list[Manifest]:
        return self._snapshots.all(model)

    @disk_errors
    def ids(self, model: ModelName | None = None) -> list[SnapshotId]:
        """As `Store.ids`; without a model, those of all."""
        return list(self._snapshots.ids(model))

    @disk_errors
    def unreadable(self) -> list[SnapshotId]:
        """The snapshots whose manifest cannot be read: while there is one, no blob is freed."""
        return self._snapshots.unreadable()

    @disk_errors
    def require_undamaged(self, id: SnapshotId) -> None:
        """Check that nothing of a snapshot was found damaged, before its bytes are used. A lease and a promotion do so.
        Raises NotOnVolume, and CorruptFile."""
        self._snapshots.require_undamaged(id)

    @disk_errors
    def publish(self, manifest: Manifest) -> None:
        self._snapshots.publish(manifest)

    @disk_errors
    def entries(self, model: ModelName | None = None) -> list[StoredSnapshot]:
        """The snapshots of one model or of all, in the order of `snapshots`."""
        manifests = self._snapshots.all(model)
        models = {manifest.model for manifest in manifests}
        promoted = self.promotions.shown(models)
        pinned = {id for model in models for id in self.pins.of(model)}
        return [
            StoredSnapshot(
                manifest=manifest,
                promoted=promoted[manifest.model].holds(manifest.id),
                default=promoted[manifest.model].default_id == manifest.id,
                pinned=manifest.id in pinned,
                last_used=self.usage.last_used(manifest.id),
                size_bytes=manifest.size_bytes,
            )
            for manifest in manifests
        ]

    @disk_errors
    def sizes(self) -> tuple[int, int]:
        """(apparent bytes: the sum over the snapshots, real bytes: the blobs on disk)."""
        apparent = sum(manifest.size_bytes for manifest in self._snapshots.all())
        return apparent, self.blob_bytes()

    @disk_errors
    def blob_statuses(self) -> list[BlobStatus]:
        """Every stored blob, sorted by its sha256."""
        return self._blobs.statuses()

    @disk_errors
    def blob_bytes(self) -> int:
        """The bytes of all blobs, each counted once."""
        return sum(status.st_size for _, status in self._blobs.all())

    @disk_errors
    def age_s(self, id: SnapshotId) -> float | None:
        """The seconds since a snapshot was published, or published again; None where there is no such snapshot."""
        return self._snapshots.age_s(id)

    def evict(self, id: SnapshotId, *, recent_s: float = RECENT_S) -> int:
        """Remove a snapshot that nothing needs, and return the bytes freed. Blobs that another snapshot names, or that
        were written or renewed in the last `recent_s` seconds, stay.

        Raises InUse when it is promoted, the target of a rollback, pinned, in use, or was published in that time, and
        NotOnVolume when there is no such snapshot; then nothing has changed.
        """
        return self._removal.evict(id, recent_s=recent_s)

    def remove(
        self, model: ModelName, *, variant: Variant | None = None, revision: Revision | None = None
    ) -> tuple[list[SnapshotId], int]:
        """Remove the snapshots of a model, or those of a variant, of a revision or of both.

        Returns (their ids, the bytes freed); blobs that another snapshot names stay. A snapshot with a damaged manifest
        is removed too, and its blobs with a later `collect`. Raises InUse when one is being served or is pinned, and
        NotOnVolume when there is none.
        """
        return self._removal.remove(model, variant=variant, revision=revision)

    def collect(self, *, older_than_s: float = ORPHAN_AGE_S) -> int:
        """Remove the orphaned blobs that are older than `older_than_s` seconds, and return the number of bytes freed.

        A publication that was about to use one raises BlobMissing: that run fails, and the next one fetches it again.
        """
        return self._removal.collect(older_than_s=older_than_s)

    @disk_errors
    def spelled(self, model: ModelName) -> ModelName:
        """The name of a model on the volume: the Hub's own for one that the Hub renamed, and found ignoring case;
        unchanged where the volume has no such model."""
        if next(self._snapshots.ids(model), None) is not None:
            return model
        renamed = self.refs.renamed(model)
        if renamed is not None:
            return renamed
        same = [name for name in self._snapshots.models() if name.slug.casefold() == model.slug.casefold()]
        return same[0] if len(same) == 1 else model

    # Promotions

    @disk_errors
    def resolve_variant(self, model: ModelName, variant: Variant) -> Variant:
        """The spelling of a variant's name on the volume, which is found ignoring case; unchanged where it is not
        there."""
        ids = self._snapshots.ids(model)
        on_volume = (*self.promotions.current(model).revisions, *(id.variant for id in ids))
        return next((name for name in on_volume if same_variant(name, variant)), variant)

    def promoted(self, model: ModelName) -> Promoted:
        return self.promotions.current(model)

    def promote(self, id: SnapshotId, *, reason: str, default: bool = True, operation: str | None = None) -> Promotion:
        """Promote a published snapshot, and make its variant the model's default unless `default` is False.

        The same `operation` is carried out once. Promoting what is promoted writes nothing. Raises NotOnVolume,
        CorruptFile for a damaged snapshot, and NoPermission for a name in the root that something else has.
        """
        return self.promotions.promote(id, reason=reason, default=default, operation=operation)

    def rollback(
        self,
        model: ModelName,
        variant: Variant | None = None,
        *,
        reason: str,
        to: Revision | None = None,
        operation: str | None = None,
        undoes: str | None = None,
    ) -> Promotion:
        """Undo the last change of what the model's name stands for, or that of a variant; with `to`, go back to that
        revision, over the changes in between.

        The same `operation` is carried out once. Snapshots that were removed meanwhile are skipped. Raises NotOnVolume
        when there is nothing to go back to, and PromotionConflict where the last change is another operation than
        `undoes`.
        """
        return self.promotions.rollback(model, variant, reason=reason, to=to, operation=operation, undoes=undoes)

    def history(self, model: ModelName) -> list[Promotion]:
        """All changes of what is promoted, oldest first. The last one of a variant is its promoted revision."""
        return self.promotions.history(model)

    # Serving and reports

    def lease(self, id: SnapshotId) -> AbstractContextManager[Path]:
        """Hold a serve lease: the snapshot is in use, and is not removed, until the block ends. Yields its directory.
        On a volume that cannot be written, there is no lease. Raises NotOnVolume, and CorruptFile for a snapshot that
        was found damaged and not repaired yet."""
        return self._leases.hold(id)

    def in_use(self, id: SnapshotId) -> bool:
        """Whether a process holds a serve lease on the snapshot."""
        return bool(self._leases.holders(id))

    def holders(self, id: SnapshotId) -> list[str]:
        """The processes that hold a serve lease on the snapshot, as text for messages."""
        return self._leases.holders(id)

    def recording(self) -> AbstractContextManager[None]:
        """Run a block that records something about reading the volume, such as usage. Where the volume cannot be
        written, nothing is recorded, which is said once."""
        return recording(self.root)

    def write_report(self, id: SnapshotId, name: str, content: str | bytes) -> str:
        return self.reports.write(id, name, content)

    def read_report(self, id: SnapshotId, name: str) -> str | None:
        return self.reports.read(id, name)

    def report_names(self, id: SnapshotId) -> list[str]:
        return self.reports.names(id)

    def remove_report(self, id: SnapshotId, name: str) -> None:
        self.reports.remove(id, name)
