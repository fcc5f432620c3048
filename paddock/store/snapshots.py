"""The snapshots of a volume: one directory for each variant of a revision, with links to its blobs and its manifest.

A snapshot is built under a staging name beside its place, the manifest last, and one rename makes it visible. Its files
and its manifest never change after that. Where a blob was damaged and repaired, the same snapshot is built anew with
links to the repaired blob, and takes the old one's place in one step.

Snapshots of schema 1 lie one level higher, in the revision's own directory. They are ignored, and a warning says so.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator, Set
from contextlib import suppress
from pathlib import Path

from paddock.errors import BlobMissing, CorruptFile, PaddockError, SnapshotDiffers, UnsafeName
from paddock.model.artifact import Manifest
from paddock.model.names import ModelName, Sha256, parse_revision
from paddock.model.reference import SnapshotId, parse_variant
from paddock.store import durable
from paddock.store.blobs import Blobs
from paddock.store.layout import Layout
from paddock.store.manifests import (
    MANIFEST_MAX_BYTES,
    MANIFEST_NAME,
    check_manifest_name_is_free,
    parse_manifest,
    same_files,
)

log = logging.getLogger(__name__)
_TOLD: set[Path] = set()
"""The volumes whose snapshots of schema 1 a warning named: once in a process."""


class Snapshots:
    def __init__(self, layout: Layout, blobs: Blobs) -> None:
        self._layout = layout
        self._blobs = blobs

    def read(self, id: SnapshotId) -> Manifest | None:
        path = self._layout.snapshot(id) / MANIFEST_NAME
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            return None
        with os.fdopen(descriptor, "rb") as file:
            text = file.read(MANIFEST_MAX_BYTES + 1)
        return parse_manifest(text, id, where=str(path))

    def is_there(self, id: SnapshotId) -> bool:
        """Whether it is visible. One whose manifest is damaged is: it can be removed, and not promoted."""
        try:
            return self.read(id) is not None
        except CorruptFile:
            return True

    def all(self, model: ModelName | None = None) -> list[Manifest]:
        found = []
        for id in self.places(model):
            try:
                manifest = self.read(id)
            except (CorruptFile, OSError) as error:
                log.warning("a snapshot is left out: %s", error)
                continue
            if manifest is not None:
                found.append(manifest)
        return sorted(found, key=lambda manifest: (manifest.repository, manifest.created_at))

    def places(self, model: ModelName | None = None) -> Iterator[SnapshotId]:
        """Every visible snapshot, by its directory's name: whether its manifest can be read or not."""
        slugs = [model.slug] if model else durable.names(self._layout.snapshots)
        for slug in slugs:
            for revision in durable.names(self._layout.snapshots / slug):
                home = self._layout.snapshots / slug / revision
                is_old = self._is_old(home)
                for name in durable.names(home):
                    try:
                        id = SnapshotId(ModelName.from_slug(slug), parse_revision(revision), parse_variant(name))
                    except UnsafeName:  # staging, or nothing of ours
                        continue
                    place = home / name
                    if place.is_dir() and not (is_old and not (place / MANIFEST_NAME).exists()):
                        yield id

    def old(self, model: ModelName) -> list[Path]:
        """The directories of the model's revisions that hold a snapshot of schema 1."""
        home = self._layout.snapshots / model.slug
        return [home / name for name in durable.names(home) if self._is_old(home / name)]

    def used(self) -> Set[Sha256] | None:
        """The blobs that the snapshots name; None when one of them cannot be read, and may name any."""
        named: set[Sha256] = set()
        for id in self.places():
            try:
                manifest = self.read(id)
            except (CorruptFile, OSError) as error:
                log.warning("no blob is removed while a manifest cannot be read: %s", error)
                return None
            named.update(file.sha256 for file in (manifest.files if manifest else ()))
        return named

    def publish(self, manifest: Manifest) -> None:
        check_manifest_name_is_free(manifest)
        final = self._layout.snapshot(manifest.id)
        there = self._readable(manifest.id)
        if there is not None and not same_files(there, manifest):
            raise SnapshotDiffers(
                f"{manifest.id} is on the volume {self._layout.root} with other files, and a snapshot is never"
                " replaced",
                cure=f"remove it with `paddock rm {manifest.id}`, then pull it again",
            )
        stands = there or manifest
        while not self._is_linked(final, stands):
            home = self._layout.made(final.parent)
            try:
                self._place(final, stands)
                break
            except FileNotFoundError:
                if home.exists():  # else its last snapshot was removed just now, and the directory with it
                    raise
        self._keep_blobs(final, stands)

    def take_away(self, id: SnapshotId) -> Path | None:
        """Make it invisible in one step; where it is now, or None when it was not there."""
        return self._take(self._layout.snapshot(id))

    def take_old_away(self, directory: Path) -> None:
        """Remove what a snapshot of schema 1 left in a revision's directory; snapshots beside it stay."""
        for name in durable.names(directory):
            place = directory / name
            if name == MANIFEST_NAME or not (place / MANIFEST_NAME).is_file():
                durable.remove(place)

    def put_back(self, away: Path, id: SnapshotId) -> None:
        durable.place_directory(away, self._layout.snapshot(id))

    def tidy(self, id: SnapshotId) -> None:
        """Remove the directory of a revision that holds nothing any more."""
        with suppress(OSError):
            self._layout.snapshot(id).parent.rmdir()

    def _take(self, final: Path) -> Path | None:
        try:
            home = self._layout.check(final.parent)
            away = durable.staging_name(home)
            os.utime(final, follow_symlinks=False)  # `sweep` judges by age, and a snapshot may be old
            final.rename(away)
        except FileNotFoundError:
            return None
        durable.sync_directory(home)
        return away

    def _place(self, final: Path, manifest: Manifest) -> None:
        with durable.staged_directory(final.parent) as staged:
            self._build(staged, manifest)
            if not self._is_linked(final, manifest):  # another process may have published it meanwhile
                durable.place_directory(staged, final)
            durable.sync_directory(final.parent)

    def _is_old(self, home: Path) -> bool:
        """Whether a revision's directory itself holds a snapshot of schema 1."""
        if not (home / MANIFEST_NAME).is_file():
            return False
        if self._layout.root not in _TOLD:
            _TOLD.add(self._layout.root)
            log.warning(
                "snapshots on %s that an earlier Paddock made are ignored: pull those models again, which fetches"
                " nothing that is there",
                self._layout.root,
            )
        return True

    def _readable(self, id: SnapshotId) -> Manifest | None:
        """The manifest that is there; None where it is damaged, and may be replaced."""
        try:
            return self.read(id)
        except CorruptFile:
            return None

    def _is_linked(self, final: Path, manifest: Manifest) -> bool:
        """Whether the snapshot is visible, and each of its files is the blob itself: a blob that was replaced because
        it was damaged must be linked anew."""
        try:
            there = self.read(manifest.id)
            if there is None or not same_files(there, manifest):
                return False
            return all(
                (blob := self._blobs.status(file.sha256)) is not None
                and blob.st_size == file.size
                and os.path.samestat((final / file.path).stat(), blob)
                for file in manifest.files
            )
        except (CorruptFile, OSError):
            return False

    def _build(self, staged: Path, manifest: Manifest) -> None:
        for file in manifest.files:
            place = staged / file.path
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                durable.link(self._layout.blob(file.sha256), place)
                status = place.stat()
            except FileNotFoundError:
                raise self._missing(manifest, file.path, file.sha256) from None
            if not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
                raise self._missing(manifest, file.path, file.sha256)
        durable.write_new(staged / MANIFEST_NAME, manifest.to_json().encode(), mode=0o444)
        durable.sync_tree(staged)

    def _keep_blobs(self, final: Path, manifest: Manifest) -> None:
        """The second look that `Blobs.free` relies on. A hard link brings its blob back; behind a symbolic one nothing
        is left, and the snapshot is withdrawn."""
        for file in manifest.files:
            if self._blobs.has(file.sha256, file.size):
                continue
            place, blob = final / file.path, self._layout.blob(file.sha256)
            with suppress(OSError):  # the next line says whether it worked
                if stat.S_ISREG(place.lstat().st_mode):
                    os.link(place, self._layout.made(blob.parent) / blob.name, follow_symlinks=False)
            if not self._blobs.has(file.sha256, file.size):
                there = self.read(manifest.id)
                if there is not None and same_files(there, manifest):
                    durable.remove(self.take_away(manifest.id) or final)
                raise self._missing(manifest, file.path, file.sha256)

    def _missing(self, manifest: Manifest, path: str, sha256: Sha256) -> PaddockError:
        return BlobMissing(
            f"the snapshot {manifest.id.short} cannot be published: the blob of {path}"
            f" ({sha256[:12]}…) is not on the volume {self._layout.root}",
            cure="fetch that file again",
        )
