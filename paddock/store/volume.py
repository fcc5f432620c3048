"""The volume: the store on a mounted directory, `/models` by default, shared by all workers.

It owns what is visible there: blobs, snapshots, the promoted pointers with their histories, leases, usage and reports.
Correctness rests on renames and on the order in which things appear and go, never on a lock. Where things lie says
`layout`; how blobs and snapshots come and go say `blobs` and `snapshots`.

It moves no bytes from elsewhere, and checks none of the bytes that it is given: who wrote them did, while writing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from paddock.errors import CorruptFile, InUse, NotEnoughDisk, NotOnVolume, PaddockError, UnsafeName
from paddock.model.artifact import Manifest
from paddock.model.names import ModelName, Revision, Sha256, parse_revision
from paddock.model.reference import SnapshotId, Variant, parse_variant, same_variant
from paddock.store import durable, leases, usage
from paddock.store.blobs import Blobs
from paddock.store.durable import disk_errors, disk_errors_in
from paddock.store.history import Promoted, Promotion
from paddock.store.layout import Layout
from paddock.store.manifests import check_report_name
from paddock.store.promotions import Promotions, Untold
from paddock.store.protocol import Store
from paddock.store.snapshots import Snapshots
from paddock.store.usage import Usage

_GIB = 1024**3
_RESERVE_BYTES = 256 * 1024 * 1024  # for journals, manifests and reports; at most a hundredth of a small disk
ORPHAN_AGE_S = 7 * 24 * 3600.0
"""How long a blob that no snapshot names is kept: it may be a shard of a download that goes on after a weekend."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """A snapshot as `ls` shows it. `default`: it is what the model's name stands for; `size_bytes` counts shared blobs
    as its own."""

    manifest: Manifest
    promoted: bool
    default: bool
    pinned: bool
    last_used: datetime | None
    size_bytes: int


class Volume(Store):
    """The constructor touches nothing; `prepare` comes before the first write."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._layout = Layout(root)
        self._blobs = Blobs(self._layout)
        self._snapshots = Snapshots(self._layout, self._blobs)
        self._promotions = Promotions(self._layout, self._snapshots)

    def __repr__(self) -> str:
        return f"Volume({str(self.root)!r})"

    @property
    def label(self) -> str:
        return f"the volume {self.root}"

    @property
    def partial(self) -> Path:
        """Where a transfer stages its bytes."""
        return self._layout.partial

    def blob_path(self, sha256: Sha256) -> Path:
        return self._layout.blob(sha256)

    def snapshot_path(self, id: SnapshotId) -> Path:
        return self._layout.snapshot(id)

    def model_path(self, model: ModelName, variant: Variant | None = None) -> Path:
        """Where the promoted snapshot of a variant is shown, or that of the model's default variant."""
        return self._layout.variant_link(model, variant) if variant else self._layout.default_link(model)

    @disk_errors
    def prepare(self) -> None:
        """Make what is missing, see that it can be written, and remove what dead writers left a day ago, and the blobs
        that no snapshot names since then. Raises NoPermission that names the path."""
        self.root.mkdir(parents=True, exist_ok=True)
        for directory in (self._layout.partial, self._layout.blobs, self._layout.snapshots):
            self._layout.made(directory)
        probe = durable.staging_name(self._layout.private)
        try:
            durable.write_new(probe, b"", mode=0o600)
        finally:
            probe.unlink(missing_ok=True)
        homes = {self._layout.snapshot(id).parent for id in self._snapshots.places()}
        for directory in (self._layout.private, self._layout.partial, *homes):
            durable.sweep(directory)
        try:
            self._blobs.sweep()
            self.collect()
        except (PaddockError, OSError) as error:  # it frees room, and nothing rests on it
            log.warning("orphaned blobs stay on %s: %s", self.label, error)

    @disk_errors
    def free_bytes(self) -> int:
        """What may still be written, on the disk where the root is or will be."""
        return self._disk()[0]

    @disk_errors
    def require_room(self, need_bytes: int) -> None:
        """Raise NotEnoughDisk unless that much fits, with a reserve."""
        free, total = self._disk()
        reserve = min(_RESERVE_BYTES, total // 100)
        missing = need_bytes + reserve - free
        if missing > 0:
            raise NotEnoughDisk(
                f"{self.root} has {free / _GIB:.2f} GiB free, and {need_bytes / _GIB:.2f} GiB are needed beside a"
                f" reserve of {reserve / _GIB:.2f} GiB: {missing / _GIB:.2f} GiB ({missing} bytes) are missing",
                cure="free space there (`paddock rm`), or choose a smaller quantization",
            )

    @disk_errors
    def has_blob(self, sha256: Sha256, size: int) -> bool:
        return self._blobs.has(sha256, size)

    @disk_errors
    def add_blob(self, staged: Path, sha256: Sha256, size: int) -> Path:
        """Take a file that lies on this volume, and whose bytes were checked while they were written. It is gone from
        `staged` afterwards, also when the blob was there already."""
        return self._blobs.add(staged, sha256, size)

    @disk_errors
    def renew_blob(self, sha256: Sha256) -> None:
        """Let a blob's age begin anew, so that no `collect` takes it before its publication. Raises BlobMissing."""
        self._blobs.renew(sha256)

    @disk_errors
    def add_bytes(self, content: bytes) -> Sha256:
        """For small derived files."""
        return self._blobs.add_bytes(content)

    @disk_errors
    def quarantine(self, sha256: Sha256) -> Path:
        """Move a damaged blob out of the way, and return where it is. Snapshots keep their links to the damaged bytes
        until they are published again with the mended blob. Raises NotOnVolume."""
        return self._blobs.quarantine(sha256)

    @disk_errors
    def quarantined(self, sha256: Sha256) -> list[Path]:
        """The damaged copies of a blob that were put aside."""
        return self._blobs.quarantined(sha256)

    @disk_errors
    def drop_quarantined(self, sha256: Sha256) -> None:
        """Remove them, once the blob is whole again."""
        for path in self._blobs.quarantined(sha256):
            durable.remove(path)

    @disk_errors
    def snapshot(self, id: SnapshotId) -> Manifest | None:
        return self._snapshots.read(id)

    @disk_errors
    def snapshots(self, model: ModelName | None = None) -> list[Manifest]:
        return self._snapshots.all(model)

    @disk_errors
    def ids(self, model: ModelName) -> list[SnapshotId]:
        """Every snapshot of a model, also one whose manifest cannot be read."""
        return list(self._snapshots.places(model))

    @disk_errors
    def publish(self, manifest: Manifest) -> None:
        self._snapshots.publish(manifest)

    @disk_errors
    def spelled(self, model: ModelName, variant: Variant) -> Variant:
        """The name of a variant as the volume has it: it is found whatever its case. As it is, where there is none."""
        known = (*self._promotions.current(model).revisions, *(id.variant for id in self._snapshots.places(model)))
        return next((one for one in known if same_variant(one, variant)), variant)

    @disk_errors
    def promoted(self, model: ModelName) -> Promoted:
        return self._promotions.current(model)

    @disk_errors
    def promote(
        self,
        id: SnapshotId,
        *,
        reason: str,
        default: bool = True,
        operation: str | None = None,
    ) -> Promotion:
        """Promote a published snapshot, and make its variant the model's default unless told otherwise. The same
        `operation` is carried out once. Promoting what is promoted writes nothing. Raises NotOnVolume, and NoPermission
        for a name in the root that something else has."""
        return self._promotions.promote(id, reason=reason, default=default, operation=operation)

    @disk_errors
    def rollback(
        self, model: ModelName, variant: Variant | None = None, *, reason: str, operation: str | None = None
    ) -> Promotion:
        """Undo the last change of what the model's name stands for, or that of a variant. The same `operation` is
        carried out once. Snapshots that were removed meanwhile are passed over. Raises NotOnVolume when there is
        nothing to go back to."""
        return self._promotions.rollback(model, variant, reason=reason, operation=operation)

    @disk_errors
    def earlier(self, model: ModelName, variant: Variant | None = None) -> SnapshotId | None:
        """What a rollback of the model, or of a variant, would go back to; None when there is nothing."""
        return self._promotions.earlier(model, variant)

    @disk_errors
    def check_names(self, model: ModelName, variant: Variant, *, default: bool = True) -> None:
        """Raise NoPermission when a name in the root that a promotion needs is taken by something else."""
        self._promotions.check_names(model, variant, default=default)

    @disk_errors
    def untold(self, model: ModelName) -> Untold:
        """What S3 has not been told of the model's promotions."""
        return self._promotions.untold(model)

    @disk_errors
    def unfinished(self, model: ModelName) -> Promotion | None:
        """The last change, where its operation did not come to its end."""
        return self._promotions.unfinished(model)

    @disk_errors
    def finish(self, model: ModelName, untold: Untold) -> None:
        """Say that the operations up to `untold.upto` came to their end, and what S3 has still to be told."""
        self._promotions.finish(model, untold)

    @disk_errors
    def pin(self, id: SnapshotId) -> None:
        """Keep a snapshot whatever becomes of others. Does nothing when it is pinned. Raises NotOnVolume."""
        if not self._snapshots.is_there(id):
            raise NotOnVolume(f"{id} is not on {self.label}", cure="pull it first")
        mark = self._layout.pin(id)
        self._layout.made(mark.parent)
        os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644))
        durable.sync_directory(mark.parent)

    @disk_errors
    def unpin(self, id: SnapshotId) -> bool:
        """Whether it was pinned."""
        mark = self._layout.pin(id)
        was_pinned = mark.exists()
        mark.unlink(missing_ok=True)
        return was_pinned

    @disk_errors
    def pins(self, model: ModelName) -> set[SnapshotId]:
        home = self._layout.private / "pins" / model.slug
        found = set()
        for revision in durable.names(home):
            for variant in durable.names(home / revision):
                with suppress(UnsafeName):  # nothing of ours
                    found.add(SnapshotId(model, parse_revision(revision), parse_variant(variant)))
        return found

    @disk_errors
    def history(self, model: ModelName) -> list[Promotion]:
        """Oldest first. The last one of a variant is what is promoted of it."""
        return self._promotions.recorded(model)

    @contextmanager
    def lease(self, id: SnapshotId) -> Iterator[Path]:
        """While it is open, the snapshot at the path that it gives is in use, and is not removed. Raises
        NotOnVolume."""
        with leases.held(self._leases(id.model), id):
            # Looked for after the lease is visible: `remove` looks for leases after the snapshot is out of sight, so
            # that one of the two always sees the other.
            if not self._snapshots.is_there(id):
                raise NotOnVolume(f"{id} is not on {self.label}", cure="pull it")
            self.touch_usage(id)
            yield self.snapshot_path(id)

    @disk_errors
    def in_use(self, id: SnapshotId) -> bool:
        return bool(self._users(id))

    @disk_errors
    def remove(
        self, model: ModelName, *, variant: Variant | None = None, revision: Revision | None = None
    ) -> tuple[list[SnapshotId], int]:
        """Remove the snapshots of a model, or those of a variant, of a revision or of both; returns them, and the bytes
        that came free: blobs that another snapshot names stay. A damaged one goes too, and its blobs with a later
        `collect`. Raises InUse when one is being served or pinned, and NotOnVolume."""
        chosen = [
            id
            for id in self.ids(model)
            if (variant is None or same_variant(id.variant, variant)) and revision in {None, id.revision}
        ]
        old = self._snapshots.old(model) if variant is None else []
        old = [directory for directory in old if revision in {None, directory.name}]
        if not chosen and not old:
            what = f"{model}{f':{variant}' if variant else ''}{f'@{revision}' if revision else ''}"
            raise NotOnVolume(f"{what} is not on {self.label}", cure="see `paddock ls`")
        for one in chosen:
            self._refuse_when_used(one)
            self._refuse_when_pinned(one)
        # The links go first: they never point at nothing. What dies from here on leaves orphans, which `collect`
        # finds, and staging names, which `prepare` sweeps.
        before = self.promoted(model)
        self._promotions.remove(chosen)
        self._promotions.remove_old(model, old)
        named: set[Sha256] = set()
        for one in chosen:
            named |= self._remove_snapshot(one, before)
        self._promotions.remove(chosen)  # somebody may have promoted one in between: see `Promotions`
        for directory in old:
            self._snapshots.take_old_away(directory)
            with suppress(OSError):
                directory.rmdir()
        return chosen, self._blobs.free(named, self._snapshots.used)

    @disk_errors
    def collect(self, *, older_than_s: float = ORPHAN_AGE_S) -> int:
        """Remove the blobs that no snapshot names and that are older than that; returns the bytes that came free.

        A publication that was about to use one raises BlobMissing: that run fails, and the next one fetches it again.
        """
        candidates = self._blobs.unlinked(older_than_s=older_than_s)
        return self._blobs.free(candidates, self._snapshots.used) if candidates else 0

    @disk_errors
    def entries(self, model: ModelName | None = None) -> list[StoredSnapshot]:
        manifests = self._snapshots.all(model)
        models = {manifest.model for manifest in manifests}
        promoted = {one: self.promoted(one) for one in models}
        pins = {id for one in models for id in self.pins(one)}
        return [
            StoredSnapshot(
                manifest=manifest,
                promoted=promoted[manifest.model].holds(manifest.id),
                default=promoted[manifest.model].default_id == manifest.id,
                pinned=manifest.id in pins,
                last_used=self.last_used(manifest.id),
                size_bytes=manifest.size_bytes,
            )
            for manifest in manifests
        ]

    @disk_errors
    def sizes(self) -> tuple[int, int]:
        """(apparent bytes: the sum over the snapshots, real bytes: the blobs on disk)."""
        apparent = sum(manifest.size_bytes for manifest in self._snapshots.all())
        return apparent, sum(status.st_size for _, status in self._blobs.all())

    @disk_errors
    def touch_usage(self, id: SnapshotId) -> None:
        mark = self._layout.usage(id)
        self._layout.made(mark.parent)
        os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644))
        os.utime(mark, follow_symlinks=False)

    @disk_errors
    def add_usage(self, id: SnapshotId, used: Usage) -> None:
        """Add to what the snapshot was used for; that is a use."""
        mark = self._layout.usage(id)
        self._layout.made(mark.parent)
        usage.add(mark, used)

    @disk_errors
    def usage(self, id: SnapshotId) -> Usage:
        return usage.read(self._layout.usage(id))

    @disk_errors
    def last_used(self, id: SnapshotId) -> datetime | None:
        try:
            return datetime.fromtimestamp(self._layout.usage(id).lstat().st_mtime, UTC)
        except FileNotFoundError:
            return None

    @disk_errors
    def write_report(self, id: SnapshotId, name: str, text: str) -> str:
        path = self._layout.report(id, check_report_name(name))
        self._layout.made(path.parent)
        durable.write_atomically(path, text.encode())
        return str(path)

    @disk_errors
    def read_report(self, id: SnapshotId, name: str) -> str | None:
        try:
            return self._layout.report(id, check_report_name(name)).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    @disk_errors
    def write_note(self, name: str, text: str) -> None:
        """Keep what is known of no one model; `name` is `<folder>/<file>`, both of this program's making."""
        path = self._layout.note(name)
        self._layout.made(path.parent)
        durable.write_atomically(path, text.encode())

    @disk_errors
    def read_note(self, name: str) -> str | None:
        try:
            return self._layout.note(name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    @disk_errors
    def write_tuning(self, sha256: Sha256, name: str, text: str) -> str:
        """Replace what is remembered of a model, by the digest of its (first) blob, under one file name; returns where
        it is."""
        path = self._layout.tuning(sha256, check_report_name(name))
        self._layout.made(path.parent)
        durable.write_atomically(path, text.encode())
        return str(path)

    @disk_errors
    def read_tuning(self, sha256: Sha256, name: str) -> str | None:
        try:
            return self._layout.tuning(sha256, check_report_name(name)).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    @property
    def docs(self) -> Path:
        """The Data Docs of all models, `<slug>/<revision>/<variant>/index.html`, beside what their pages share."""
        return self._layout.docs

    @disk_errors
    def shared_docs(self) -> Path:
        """A directory beside the Data Docs of all models, for what their pages share."""
        return self._layout.made(self._layout.docs / "assets")

    @contextmanager
    def write_docs(self, id: SnapshotId) -> Iterator[Path]:
        """An empty directory, which takes the place of the Data Docs of a snapshot when the block ends well."""
        final = self._layout.documents(id)
        with disk_errors_in(self.root):
            home = self._layout.made(final.parent)
            durable.sweep(home)
            with durable.staged_directory(home) as staged:
                yield staged
                durable.place_directory(staged, final)

    def _disk(self) -> tuple[int, int]:
        """(free, total) bytes."""
        place = self.root
        while not place.exists() and place != place.parent:
            place = place.parent
        numbers = os.statvfs(place)
        return numbers.f_bavail * numbers.f_frsize, numbers.f_blocks * numbers.f_frsize

    @disk_errors
    def _leases(self, model: ModelName) -> Path:
        return self._layout.made(self._layout.leases(model))

    def _users(self, id: SnapshotId) -> list[str]:
        return leases.holders(self._layout.leases(id.model), id)

    def _refuse_when_used(self, id: SnapshotId) -> None:
        users = self._users(id)
        if users:
            raise InUse(f"{id.short} is in use by {'; '.join(users)}", cure="stop that server, then remove it")

    def _refuse_when_pinned(self, id: SnapshotId) -> None:
        if id in self.pins(id.model):
            raise InUse(f"{id.short} is pinned", cure=f"unpin it first (`paddock unpin {id}`)")

    def _remove_snapshot(self, id: SnapshotId, before: Promoted) -> set[Sha256]:
        """The blobs that it named. `before` is what was promoted before the links went."""
        try:
            manifest = self._snapshots.read(id)
        except (CorruptFile, OSError):  # then its blobs are orphans
            manifest = None
        named = {file.sha256 for file in manifest.files} if manifest else set()
        away = self._snapshots.take_away(id)
        if away is None:
            return named
        try:
            self._refuse_when_used(id)  # again, now that nobody new can find it
        except InUse:
            self._snapshots.put_back(away, id)
            if before.holds(id):
                self.promote(id, reason="still in use", default=before.default == id.variant)
            raise
        durable.remove(away)
        durable.remove(self._layout.documents(id))
        self._layout.usage(id).unlink(missing_ok=True)
        self._snapshots.tidy(id)
        return named
