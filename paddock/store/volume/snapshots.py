"""Snapshots of the volume: one directory for each variant of a revision, with links to its blobs and a manifest.

A snapshot is built under a staging name beside its final path, the manifest last, and one rename makes it visible. Its
files and its manifest never change after that. When a damaged blob was repaired, the same snapshot is built again with
links to the repaired blob, and replaces the old directory in one rename.

Snapshots of schema 1 are one level higher, in the revision's own directory. They are ignored, with a warning.

Methods raise OSError as it comes; `Volume` maps it.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Iterator, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from paddock.errors import BlobMissing, CorruptFile, NotOnVolume, PaddockError, SnapshotDiffers, UnsafeName
from paddock.model.artifact import MANIFEST_MAX_BYTES, Manifest, SnapshotFile
from paddock.model.names import ModelName, Sha256, parse_revision
from paddock.model.reference import SnapshotId, parse_variant
from paddock.store import durable
from paddock.store.manifests import (
    MANIFEST_NAME,
    check_manifest_name_is_free,
    manifest_cure,
    parse_manifest,
    same_files,
)
from paddock.store.volume.blobs import Blobs
from paddock.store.volume.file_states import FileStates
from paddock.store.volume.layout import Layout
from paddock.store.volume.published import PublishedManifests, RecordMatch
from paddock.untrusted.content import UnusableContent

log = logging.getLogger(__name__)
_COMPARISONS = 5
_COMPARED_AGAIN_S = 0.01
_WARNED: set[Path] = set()
"""Roots of the volumes whose snapshots of schema 1 were warned about: once in each process."""


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest as it was read. `is_recorded`: its `content` is that of a record of its publication."""

    manifest: Manifest
    content: bytes
    is_recorded: bool


class Snapshots:
    def __init__(self, layout: Layout, blobs: Blobs, states: FileStates, published: PublishedManifests) -> None:
        self._layout = layout
        self._blobs = blobs
        self._states = states
        self._published = published

    def read(self, id: SnapshotId) -> Manifest | None:
        """The manifest of a snapshot; None where there is no such snapshot. Raises CorruptFile, also for one that was
        edited after it was published."""
        stored = self.read_stored(id)
        return stored.manifest if stored else None

    def read_stored(self, id: SnapshotId) -> StoredManifest | None:
        """As `read`, with the content of the manifest, and whether it is recorded."""
        path = self._layout.snapshot(id) / MANIFEST_NAME
        for left in reversed(range(_COMPARISONS)):
            content = self.manifest_content(id)
            if content is None:
                return None
            result = self._published.compare(id, content)
            if result is not RecordMatch.OTHER:
                manifest = parse_manifest(content, id, where=str(path))
                return StoredManifest(manifest, content, is_recorded=result is RecordMatch.AS_RECORDED)
            if left:  # another process may remove or publish it at this moment
                time.sleep(_COMPARED_AGAIN_S)
        raise CorruptFile(
            f"the manifest {path} was changed after it was published",
            cure=f"write it again with `paddock verify {id} --repair`, or remove it with `paddock rm {id}`",
        )

    def manifest_content(self, id: SnapshotId) -> bytes | None:
        """The content of a snapshot's manifest; None where there is no such snapshot. Raises CorruptFile."""
        path = self._layout.snapshot(id) / MANIFEST_NAME
        try:
            return self._layout.read(path, max_bytes=MANIFEST_MAX_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except UnusableContent as error:
            raise CorruptFile(f"the manifest {path} cannot be used: {error.reason}", cure=manifest_cure(id)) from None

    def copy(self, id: SnapshotId) -> StoredManifest | None:
        """The recorded copy of a snapshot's manifest; None where there is none that can be read."""
        where = str(self._layout.published(id))
        for content in self._published.copies(id):
            with suppress(CorruptFile):
                return StoredManifest(parse_manifest(content, id, where=where), content, is_recorded=True)
        return None

    def restore_manifest(self, id: SnapshotId) -> bool:
        """Publish a snapshot again with the recorded copy of its manifest. False where there is none."""
        copy = self.copy(id)
        if copy is None:
            return False
        self.publish(copy.manifest)
        return True

    def exists(self, id: SnapshotId) -> bool:
        """Whether a snapshot is visible. One with a damaged manifest is: it can be removed, but not promoted."""
        try:
            return self.read(id) is not None
        except CorruptFile:
            return True

    def require_undamaged(self, id: SnapshotId) -> None:
        """Check that nothing of a snapshot was found damaged, before its bytes are used: a damaged blob was
        quarantined. Raises NotOnVolume, and CorruptFile."""
        manifest = self.read(id)
        for file in manifest.files if manifest else ():
            path = self._layout.snapshot(id) / file.path
            # Else it was removed in between, and perhaps published again.
            if self._damage(path, file) and self.read(id) is not None and (damage := self._damage(path, file)):
                raise CorruptFile(
                    f"{file.path} of {id.short} on {self._layout.label} {damage}",
                    cure=f"repair it with `paddock verify {id} --repair`",
                )
        if manifest is None or self.read(id) is None:
            raise NotOnVolume(f"{id} is not on {self._layout.label}", cure="pull it")

    def _damage(self, path: Path, file: SnapshotFile) -> str:
        """What is wrong with a snapshot's file, as far as is known without reading it; "" for nothing.

        A file that is not the blob itself has its bytes all the same: a person copied the volume without its hard
        links, or deleted the blob, or another process moved the blob to see whether it is needed. Where the blob has a
        damaged copy in the quarantine, the file has the damaged bytes.
        """
        blob = self._blobs.status(file.sha256)
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return "is missing" if blob else "has lost its blob"
        if not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
            return "is not the file that was stored"
        if blob is not None and os.path.samestat(status, blob):
            return ""
        return "was found damaged" if self._blobs.quarantined(file.sha256) else ""

    def is_whole(self, manifest: Manifest) -> bool:
        """Whether the snapshot is visible, and each of its files is the blob itself. A damaged blob that was replaced
        needs a new link."""
        try:
            published = self.read(manifest.id)
            if published is None or not same_files(published, manifest):
                return False
            final = self._layout.snapshot(manifest.id)
            return all(self._is_blob(final / file.path, file) for file in manifest.files)
        except (CorruptFile, OSError):
            return False

    def all(self, model: ModelName | None = None) -> list[Manifest]:
        """The manifests of one model or of all, sorted by repository and creation. One that cannot be read is left out,
        with a warning."""
        manifests = []
        for id in self.ids(model):
            try:
                manifest = self.read(id)
            except (CorruptFile, OSError) as error:
                log.warning("a snapshot is left out: %s", error)
                continue
            if manifest is not None:
                manifests.append(manifest)
        return sorted(manifests, key=lambda manifest: (manifest.repository, manifest.created_at))

    def ids(self, model: ModelName | None = None) -> Iterator[SnapshotId]:
        """Every visible snapshot of one model or of all, by its directory: also one whose manifest cannot be read."""
        slugs = [model.slug] if model else self._layout.names(self._layout.snapshots)
        for slug in slugs:
            for revision in self._layout.names(self._layout.snapshots / slug):
                parent = self._layout.snapshots / slug / revision
                is_old = self._is_old(parent)
                for name in self._layout.names(parent):
                    try:
                        id = SnapshotId(ModelName.from_slug(slug), parse_revision(revision), parse_variant(name))
                    except UnsafeName:  # a staging name, or not a directory of Paddock's
                        continue
                    directory = parent / name
                    if directory.is_dir() and not (is_old and not (directory / MANIFEST_NAME).exists()):
                        yield id

    def unreadable(self) -> list[SnapshotId]:
        """The visible snapshots whose manifest cannot be read."""
        found = []
        for id in self.ids():
            try:
                self.read(id)
            except (CorruptFile, OSError):
                found.append(id)
        return found

    def models(self) -> Iterator[ModelName]:
        """Every model that has a visible snapshot."""
        for slug in self._layout.names(self._layout.snapshots):
            with suppress(UnsafeName):  # not a directory of Paddock's
                model = ModelName.from_slug(slug)
                if next(self.ids(model), None) is not None:
                    yield model

    def old(self, model: ModelName) -> list[Path]:
        """The directories of a model's revisions that hold a snapshot of schema 1."""
        parent = self._layout.snapshots / model.slug
        return [parent / name for name in self._layout.names(parent) if self._is_old(parent / name)]

    def blobs_in_use(self) -> Set[Sha256] | None:
        """The blobs that all snapshots name; None when a manifest cannot be read, since it may name any blob."""
        named: set[Sha256] = set()
        for id in self.ids():
            try:
                manifest = self.read(id)
            except (CorruptFile, OSError) as error:
                log.warning("no blob is removed while a manifest cannot be read: %s", error)
                return None
            named.update(file.sha256 for file in (manifest.files if manifest else ()))
        return named

    def publish(self, manifest: Manifest) -> None:
        """As `Store.publish`."""
        check_manifest_name_is_free(manifest)
        final = self._layout.snapshot(manifest.id)
        stored = self._stored_or_none(manifest.id)
        published = stored.manifest if stored else None
        if published is not None and not same_files(published, manifest):
            raise SnapshotDiffers(
                f"{manifest.id} is on {self._layout.label} with other files, and a snapshot is never replaced",
                cure=f"remove it with `paddock rm {manifest.id}`, then pull it again",
            )
        manifest = published or manifest  # the manifest that was published first stays
        content = stored.content if stored else manifest.to_json().encode()
        is_recorded = stored is None or stored.is_recorded
        while not (self.is_whole(manifest) and _renew(final)):
            parent = self._layout.make_directory(final.parent)
            try:
                self._build_and_place(final, manifest, content, record=is_recorded)
                break
            except FileNotFoundError:
                if parent.exists():  # else another process removed its last snapshot, and then the directory
                    raise
        self._recheck_blobs(final, manifest)

    def age_s(self, id: SnapshotId) -> float | None:
        """The seconds since a snapshot was published, or published again; None where there is no such snapshot."""
        try:
            return time.time() - self._layout.snapshot(id).lstat().st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return None

    def hide(self, id: SnapshotId) -> Path | None:
        """Make a snapshot invisible by one rename. Returns its staging path, or None when it does not exist. Where an
        error is raised, it is visible."""
        final = self._layout.snapshot(id)
        try:
            parent = self._layout.check_directory(final.parent)
            hidden = durable.staging_name(parent)
            os.utime(final, follow_symlinks=False)  # `sweep` goes by age, and a snapshot may be old
            final.rename(hidden)
        except FileNotFoundError:
            return None
        try:
            durable.sync_directory(parent)
        except OSError:
            self.restore(hidden, id)
            raise
        return hidden

    def restore(self, hidden: Path, id: SnapshotId) -> None:
        """Make a hidden snapshot visible again. A blob that was freed meanwhile, since no visible snapshot named it, is
        linked again."""
        durable.place_directory(hidden, self._layout.snapshot(id))
        stored = self._stored_or_none(id)
        if stored is not None:
            self._recheck_blobs(self._layout.snapshot(id), stored.manifest)

    def remove_old(self, directory: Path) -> None:
        """Remove the files of a snapshot of schema 1 from a revision's directory. Snapshots of variants stay."""
        for name in self._layout.names(directory):
            path = directory / name
            if name == MANIFEST_NAME or not (path / MANIFEST_NAME).is_file():
                durable.remove(path)

    def remove_empty_revision(self, id: SnapshotId) -> None:
        """Remove the directory of a snapshot's revision where it is empty."""
        with suppress(OSError):
            self._layout.snapshot(id).parent.rmdir()

    def _build_and_place(self, final: Path, manifest: Manifest, content: bytes, *, record: bool) -> None:
        with durable.staged_directory(final.parent) as staged:
            self._build(staged, manifest, content)
            if not self.is_whole(manifest):  # another process may have published it meanwhile
                if record:
                    self._published.record(manifest.id, content)
                durable.place_directory(staged, final)
                if record:  # again, if a process that removed an earlier one took it along
                    self._published.record(manifest.id, content)
            durable.sync_directory(final.parent)
            with self._states.all_kept({file.sha256 for file in manifest.files}):
                durable.remove(staged)

    def _is_old(self, revision: Path) -> bool:
        """Whether a revision's directory itself holds a snapshot of schema 1."""
        if not (revision / MANIFEST_NAME).is_file():
            return False
        if self._layout.root not in _WARNED:
            _WARNED.add(self._layout.root)
            log.warning(
                "snapshots on %s that an earlier version of Paddock made are ignored: pull those models again, which"
                " transfers no file that is already there",
                self._layout.root,
            )
        return True

    def _stored_or_none(self, id: SnapshotId) -> StoredManifest | None:
        """As `read_stored`, but None for a damaged manifest, which may be replaced."""
        try:
            return self.read_stored(id)
        except CorruptFile:
            return None

    def _is_blob(self, path: Path, file: SnapshotFile) -> bool:
        """Whether a snapshot's file is the blob itself, by a hard link or a symbolic one."""
        blob = self._blobs.status(file.sha256)
        try:
            return blob is not None and blob.st_size == file.size and os.path.samestat(path.stat(), blob)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _build(self, staged: Path, manifest: Manifest, content: bytes) -> None:
        with self._states.all_kept({file.sha256 for file in manifest.files}):
            for file in manifest.files:
                self._link(staged / file.path, manifest, file)
        durable.write_new(staged / MANIFEST_NAME, content, read_only=True)
        durable.sync_tree(staged)

    def _link(self, path: Path, manifest: Manifest, file: SnapshotFile) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            durable.link(self._layout.blob(file.sha256), path)
            status = path.stat()
        except FileNotFoundError:
            raise self._missing(manifest, file.path, file.sha256) from None
        if not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
            raise self._missing(manifest, file.path, file.sha256)

    def _recheck_blobs(self, final: Path, manifest: Manifest) -> None:
        """Look for each blob again, now that the snapshot is visible: `Blobs.free` relies on it. A missing blob is
        linked again from the snapshot's hard link; where the snapshot has only a symbolic one, the bytes are gone, and
        the snapshot is withdrawn."""
        for file in manifest.files:
            if self._blobs.has(file.sha256, file.size):
                continue
            path, blob = final / file.path, self._layout.blob(file.sha256)
            if self._blobs.quarantined(file.sha256):  # found damaged just now: the snapshot waits for its repair
                raise self._missing(manifest, file.path, file.sha256)
            with suppress(OSError):  # the check below tells whether it worked
                if stat.S_ISREG(path.lstat().st_mode):
                    os.link(path, self._layout.make_directory(blob.parent) / blob.name, follow_symlinks=False)
            if not self._blobs.has(file.sha256, file.size):
                published = self.read(manifest.id)
                if published is not None and same_files(published, manifest):
                    durable.remove(self.hide(manifest.id) or final)
                raise self._missing(manifest, file.path, file.sha256)

    def _missing(self, manifest: Manifest, path: str, sha256: Sha256) -> PaddockError:
        return BlobMissing(
            f"the snapshot {manifest.id.short} cannot be published: the blob of {path}"
            f" ({sha256[:12]}…) is not on {self._layout.label}",
            cure="fetch that file again",
        )


def _renew(snapshot: Path) -> bool:
    """Set a snapshot's age to zero, as a new one has, so that it is not evicted before it is promoted. False where
    another process removed it meanwhile."""
    try:
        os.utime(snapshot, follow_symlinks=False)
    except FileNotFoundError:
        return False
    except OSError:  # another user's, or a read-only volume: it keeps its age
        return True
    return True
