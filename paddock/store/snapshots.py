"""The snapshots of a volume: one directory for each revision, with links to its blobs and its manifest.

A snapshot is built under a staging name beside its place, the manifest last, and one rename makes it visible. It is
never changed after that. Another choice of the same revision is built in the same way and takes its place in one step;
who has files of the old one open keeps them.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator, Set
from contextlib import suppress
from pathlib import Path

from paddock.errors import BlobMissing, CorruptFile, PaddockError, UnsafeName
from paddock.model.artifact import Manifest
from paddock.model.names import ModelName, Revision, Sha256, parse_revision
from paddock.store import durable
from paddock.store.blobs import Blobs
from paddock.store.layout import Layout
from paddock.store.store import MANIFEST_NAME, check_manifest_name_is_free, same_snapshot

MANIFEST_MAX_BYTES = 64 * 1024 * 1024  # one of 1 TiB of weights in segments of 64 MiB has 1.2 MB

log = logging.getLogger(__name__)


class Snapshots:
    def __init__(self, layout: Layout, blobs: Blobs) -> None:
        self._layout = layout
        self._blobs = blobs

    def read(self, model: ModelName, revision: Revision) -> Manifest | None:
        path = self._layout.snapshot(model, revision) / MANIFEST_NAME
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            return None
        with os.fdopen(descriptor, "rb") as file:
            text = file.read(MANIFEST_MAX_BYTES + 1)
        return parse_in_place(text, model, revision, where=str(path))

    def is_there(self, model: ModelName, revision: Revision) -> bool:
        return self.read(model, revision) is not None

    def all(self, model: ModelName | None = None) -> list[Manifest]:
        found = []
        for one, revision in self.places(model):
            try:
                manifest = self.read(one, revision)
            except (CorruptFile, OSError) as error:
                log.warning("a snapshot is left out: %s", error)
                continue
            if manifest is not None:
                found.append(manifest)
        return sorted(found, key=lambda manifest: (manifest.repository, manifest.created_at))

    def places(self, model: ModelName | None = None) -> Iterator[tuple[ModelName, Revision]]:
        """Every visible snapshot, by its directory's name: whether its manifest can be read or not."""
        slugs = [model.slug] if model else durable.names(self._layout.snapshots)
        for slug in slugs:
            for name in durable.names(self._layout.snapshots / slug):
                try:
                    yield ModelName.from_slug(slug), parse_revision(name)
                except UnsafeName:  # staging, or nothing of ours
                    continue

    def used(self) -> Set[Sha256] | None:
        """The blobs that the snapshots name; None when one of them cannot be read, and may name any."""
        named: set[Sha256] = set()
        for model, revision in self.places():
            try:
                manifest = self.read(model, revision)
            except (CorruptFile, OSError) as error:
                log.warning("no blob is removed while a manifest cannot be read: %s", error)
                return None
            named.update(file.sha256 for file in (manifest.files if manifest else ()))
        return named

    def publish(self, manifest: Manifest) -> None:
        check_manifest_name_is_free(manifest)
        final = self._layout.snapshot(manifest.model, manifest.revision)
        home = self._layout.made(final.parent)
        if not self._is_there(final, manifest):
            with durable.staged_directory(home) as staged:
                self._build(staged, manifest)
                durable.place_directory(staged, final)
                durable.sync_directory(home)
        self._keep_blobs(final, manifest)

    def take_away(self, model: ModelName, revision: Revision) -> Path | None:
        """Make it invisible in one step; where it is now, or None when it was not there."""
        final = self._layout.snapshot(model, revision)
        try:
            home = self._layout.check(final.parent)
            away = durable.staging_name(home)
            os.utime(final, follow_symlinks=False)  # `sweep` judges by age, and a snapshot may be old
            final.rename(away)
        except FileNotFoundError:
            return None
        durable.sync_directory(home)
        return away

    def put_back(self, away: Path, model: ModelName, revision: Revision) -> None:
        durable.place_directory(away, self._layout.snapshot(model, revision))

    def _is_there(self, final: Path, manifest: Manifest) -> bool:
        """Whether the same snapshot is visible, and each of its files is the blob itself: a blob that was replaced
        because it was damaged must be linked anew."""
        try:
            there = self.read(manifest.model, manifest.revision)
            if there is None or not same_snapshot(there, manifest):
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
                there = self.read(manifest.model, manifest.revision)
                if there is not None and same_snapshot(there, manifest):
                    durable.remove(self.take_away(manifest.model, manifest.revision) or final)
                raise self._missing(manifest, file.path, file.sha256)

    def _missing(self, manifest: Manifest, path: str, sha256: Sha256) -> PaddockError:
        return BlobMissing(
            f"the snapshot {manifest.repository}@{manifest.revision[:8]} cannot be published: the blob of {path}"
            f" ({sha256[:12]}…) is not on the volume {self._layout.root}",
            cure="fetch that file again",
        )


def parse_in_place(text: bytes, model: ModelName, revision: Revision, *, where: str) -> Manifest:
    """Parse the manifest found at the place of a model's revision. Raises CorruptFile, also for that of another."""
    if len(text) > MANIFEST_MAX_BYTES:
        raise CorruptFile(
            f"the manifest {where} is larger than {MANIFEST_MAX_BYTES} bytes",
            cure="remove that snapshot and pull it again",
        )
    manifest = Manifest.from_json(text, where=where)
    if (manifest.model, manifest.revision) != (model, revision):
        raise CorruptFile(
            f"the manifest {where} is that of {manifest.repository}@{manifest.revision}, not of {model}@{revision}",
            cure="remove that snapshot and pull it again",
        )
    return manifest
