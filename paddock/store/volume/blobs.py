"""Blobs of the volume: verified bytes in read-only files that are named by their sha256.

A blob that no snapshot names is an *orphan*: its publication is still under way, or died, or its snapshot was replaced
or removed.

Several users may share the volume. What only the owner of a blob may do, another user does in another way: where the
blob's age cannot be set, an empty file under a staging name stands for its last renewal; where its mode cannot be set,
a copy replaces it.

Methods raise OSError as it comes; `Volume` maps it.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from paddock.errors import BlobMissing, CorruptFile, NotOnVolume, UnsafeName
from paddock.model.names import Sha256, parse_sha256
from paddock.store.durable import (
    READ_ONLY,
    STAGING_PREFIX,
    rename_noreplace,
    staged_directory,
    staging_name,
    sync_directory,
    write_new,
)
from paddock.store.volume.file_states import FileStates
from paddock.store.volume.layout import Layout
from paddock.untrusted.files import open_regular

ORPHAN_AGE_S = 7 * 24 * 3600.0
"""How long a blob that no snapshot names is kept: it may be a shard of a download that goes on after a weekend."""

RECENT_S = 3600.0
"""How long after its publication a snapshot is not evicted: who published it may be about to promote it. As long after
it was written or renewed, a blob is not freed by an eviction: it may be about to be published."""


@dataclass(frozen=True, slots=True)
class BlobStatus:
    """A stored blob: its size, the number of its hard links, and the seconds since it was written or renewed."""

    sha256: Sha256
    size_bytes: int
    links: int
    age_s: float


class Blobs:
    def __init__(self, layout: Layout, states: FileStates) -> None:
        self._layout = layout
        self._states = states

    def has(self, sha256: Sha256, size: int) -> bool:
        status = self.status(sha256)
        return status is not None and status.st_size == size

    def status(self, sha256: Sha256) -> os.stat_result | None:
        """The status of a blob's file; None where there is no regular file of that name."""
        try:
            status = self._layout.blob(sha256).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status if stat.S_ISREG(status.st_mode) else None

    def add(self, staged: Path, sha256: Sha256, size: int) -> Path:
        """As `Volume.add_blob`."""
        blob = self._layout.blob(sha256)
        self._layout.make_directory(blob.parent)
        if not self.has(sha256, size):
            _sync_regular(staged, size)
            try:
                rename_noreplace(staged, blob)
            except FileExistsError:
                if not self.has(sha256, size):  # a blob that a failing disk cut short must not block the sound one
                    staged.rename(blob)
        # After the rename, so that the next process can still write a staged file whose owner died here. Also when the
        # blob existed, since the process that added it may have died before this line.
        try:
            _make_read_only(blob)
        except FileNotFoundError:
            raise self.missing(sha256) from None
        sync_directory(blob.parent)
        staged.unlink(missing_ok=True)
        return blob

    def add_bytes(self, content: bytes) -> Sha256:
        from hashlib import sha256 as sha256_of

        sha256 = Sha256(sha256_of(content).hexdigest())
        if not self.has(sha256, len(content)):
            staged = staging_name(self._layout.make_directory(self._layout.partial))
            try:
                write_new(staged, content)
                self.add(staged, sha256, len(content))
            finally:
                staged.unlink(missing_ok=True)
        return sha256

    def renew(self, sha256: Sha256) -> None:
        """Set a blob's age to zero, so that it is not collected before it is published. Raises BlobMissing."""
        blob = self._layout.blob(sha256)
        try:
            with self._states.kept(sha256, blob, renewed=True):
                os.utime(blob, follow_symlinks=False)
        except FileNotFoundError:
            raise self.missing(sha256) from None
        except PermissionError:
            renewed = _renewal(blob)
            renewed.unlink(missing_ok=True)
            write_new(renewed, b"")

    def quarantine(self, sha256: Sha256) -> Path:
        """As `Volume.quarantine`."""
        target = self._layout.make_directory(self._layout.quarantine) / f"{sha256}-{os.urandom(4).hex()}"
        blob = self._layout.blob(sha256)
        try:
            self._layout.check_directory(blob.parent)
            blob.rename(target)
        except FileNotFoundError:
            raise NotOnVolume(f"the blob {sha256} is not on {self._layout.label}") from None
        sync_directory(blob.parent)
        return target

    def keep_damaged(self, path: Path, sha256: Sha256) -> None:
        """Link a snapshot's damaged file into the quarantine, where its blob is gone."""
        target = self._layout.make_directory(self._layout.quarantine) / f"{sha256}-{os.urandom(4).hex()}"
        os.link(path, target, follow_symlinks=False)

    def add_link(self, path: Path, sha256: Sha256, size: int) -> None:
        """Make the blob of a snapshot's sound file again, which is gone."""
        staged = staging_name(self._layout.make_directory(self._layout.partial))
        try:
            os.link(path, staged, follow_symlinks=False)
            self.add(staged, sha256, size)
        finally:
            staged.unlink(missing_ok=True)

    def quarantined(self, sha256: Sha256) -> list[Path]:
        """The damaged copies of a blob in the quarantine."""
        directory = self._layout.quarantine
        return [directory / name for name in self._layout.names(directory) if name.startswith(f"{sha256}-")]

    def all(self) -> Iterator[tuple[Sha256, os.stat_result]]:
        for prefix in self._layout.names(self._layout.blobs):
            for name in self._layout.names(self._layout.blobs / prefix):
                try:
                    sha256 = parse_sha256(name)
                except UnsafeName:
                    continue
                status = self.status(sha256)
                if status is not None:
                    yield sha256, status

    def statuses(self) -> list[BlobStatus]:
        now = time.time()
        return [
            BlobStatus(sha256, status.st_size, status.st_nlink, now - self._written_at(sha256, status))
            for sha256, status in self.all()
        ]

    def younger(self, blobs: Collection[Sha256], *, than_s: float) -> set[Sha256]:
        """Those of the blobs that were written or renewed in the last `than_s` seconds."""
        after = time.time() - than_s
        found = {sha256: status for sha256 in blobs if (status := self.status(sha256)) is not None}
        return {sha256 for sha256, status in found.items() if self._written_at(sha256, status) > after}

    def unlinked(self, *, older_than_s: float) -> set[Sha256]:
        """Blobs that may be orphans: without a second hard link, which is a snapshot's or would keep the bytes anyway,
        and older than `older_than_s` seconds, since younger ones may be about to be published."""
        before = time.time() - older_than_s
        unlinked = (blob for blob in self.all() if blob[1].st_nlink == 1 and blob[1].st_mtime <= before)
        return {sha256 for sha256, status in unlinked if self._written_at(sha256, status) <= before}

    def renewed_at(self, sha256: Sha256) -> float:
        """When another user's blob was renewed, minus infinity where it was not."""
        try:
            return _renewal(self._layout.blob(sha256)).lstat().st_mtime
        except FileNotFoundError:
            return float("-inf")

    def missing(self, sha256: Sha256) -> BlobMissing:
        """The error for a blob that is not there any more."""
        return BlobMissing(
            f"the blob {sha256} was collected as an orphan before it was published", cure="fetch that file again"
        )

    def free(self, candidates: Iterable[Sha256], blobs_in_use: Callable[[], Set[Sha256] | None]) -> int:
        """Remove those of `candidates` that no snapshot uses, and return the number of bytes freed.

        `blobs_in_use` returns the blobs that all snapshots name, or None when a manifest cannot be read; then nothing
        is removed. It is called twice, since another process may publish a snapshot with one of the blobs in between.
        The order protects such a publication. Here a blob is moved to a staged directory first, then `blobs_in_use` is
        read again, and a blob that is in use by then is moved back. `Snapshots.publish` first makes the snapshot
        visible, then looks for each blob again. So one of the two always sees the other.
        """
        in_use = blobs_in_use()
        unused = sorted(set(candidates) - in_use) if in_use is not None else []
        if not unused:
            return 0
        freed_bytes = 0
        # A directory, since `sweep` goes by age: a blob may be old, and that of another user keeps its age.
        with staged_directory(self._layout.check_directory(self._layout.blobs)) as hidden:
            moved = [sha256 for sha256 in unused if self._move(sha256, hidden)]
            in_use = blobs_in_use() if moved else in_use
            for sha256 in moved:
                blob, status = self._layout.blob(sha256), (hidden / sha256).lstat()
                if in_use is None or sha256 in in_use:
                    (hidden / sha256).rename(blob)
                else:
                    freed_bytes += status.st_size if status.st_nlink == 1 else 0
                sync_directory(blob.parent)
        return freed_bytes

    def _move(self, sha256: Sha256, directory: Path) -> bool:
        """Move a blob to a staged directory. False where it is not there."""
        blob = self._layout.blob(sha256)
        try:
            self._layout.check_directory(blob.parent)
            blob.rename(directory / sha256)
        except FileNotFoundError:
            return False
        return True

    def _written_at(self, sha256: Sha256, status: os.stat_result) -> float:
        """When a blob was written or renewed."""
        return max(status.st_mtime, self.renewed_at(sha256))


def _renewal(blob: Path) -> Path:
    """The file that stands for the renewal of another user's blob. `durable.sweep` removes it after a day."""
    return blob.with_name(f"{STAGING_PREFIX}{blob.name}")


def _make_read_only(blob: Path) -> None:
    """Let nobody write a blob. That of another user, who died before this, is replaced by a copy."""
    if stat.S_IMODE(blob.lstat().st_mode) == READ_ONLY:
        return
    try:
        blob.chmod(READ_ONLY)
    except PermissionError:
        copy = staging_name(blob.parent)
        try:
            shutil.copyfile(blob, copy, follow_symlinks=False)
            _sync_regular(copy, blob.stat().st_size)
            copy.chmod(READ_ONLY)
            copy.replace(blob)
        finally:
            copy.unlink(missing_ok=True)


def _sync_regular(path: Path, size: int) -> None:
    """Fsync a staged file. Raises CorruptFile where it has another size, and UnusableContent where it is no file."""
    descriptor = open_regular(path)
    try:
        found = os.fstat(descriptor).st_size
        if found != size:
            raise CorruptFile(
                f"the staged file {path} has {found} bytes, not the {size} that were checked", cure="fetch it again"
            )
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
