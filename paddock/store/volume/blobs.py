"""Blobs of the volume: verified bytes in read-only files that are named by their sha256.

A blob that no snapshot names is an *orphan*: its publication is still under way, or died, or its snapshot was replaced
or removed.

Methods raise OSError as it comes; `Volume` maps it.
"""

from __future__ import annotations

import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import suppress
from hashlib import sha256 as sha256_of
from pathlib import Path

from paddock.errors import BlobMissing, CorruptFile, NotOnVolume, UnsafeName
from paddock.model.names import Sha256, parse_sha256
from paddock.store.durable import names, remove, rename_noreplace, staging_name, sweep, sync_directory, write_new
from paddock.store.volume.layout import Layout

_READ_ONLY = 0o444


class Blobs:
    def __init__(self, layout: Layout) -> None:
        self._layout = layout

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
            blob.chmod(_READ_ONLY)
        except FileNotFoundError:
            raise self._missing(sha256) from None
        sync_directory(blob.parent)
        staged.unlink(missing_ok=True)
        return blob

    def add_bytes(self, content: bytes) -> Sha256:
        sha256 = Sha256(sha256_of(content).hexdigest())
        if not self.has(sha256, len(content)):
            staged = staging_name(self._layout.make_directory(self._layout.partial))
            try:
                write_new(staged, content, mode=0o600)
                self.add(staged, sha256, len(content))
            finally:
                staged.unlink(missing_ok=True)
        return sha256

    def renew(self, sha256: Sha256) -> None:
        """Set a blob's age to zero, so that it is not collected before it is published. Raises BlobMissing."""
        try:
            _touch(self._layout.blob(sha256))
        except FileNotFoundError:
            raise self._missing(sha256) from None

    def quarantine(self, sha256: Sha256) -> Path:
        """As `Volume.quarantine`."""
        target = self._layout.make_directory(self._layout.quarantine) / f"{sha256}-{secrets.token_hex(4)}"
        blob = self._layout.blob(sha256)
        try:
            self._layout.check_directory(blob.parent)
            blob.rename(target)
        except FileNotFoundError:
            raise NotOnVolume(f"the blob {sha256} is not on {self._layout.label}") from None
        sync_directory(blob.parent)
        return target

    def quarantined(self, sha256: Sha256) -> list[Path]:
        """The damaged copies of a blob in the quarantine."""
        directory = self._layout.quarantine
        return [directory / name for name in names(directory) if name.startswith(f"{sha256}-")]

    def all(self) -> Iterator[tuple[Sha256, os.stat_result]]:
        for prefix in names(self._layout.blobs):
            for name in names(self._layout.blobs / prefix):
                try:
                    sha256 = parse_sha256(name)
                except UnsafeName:
                    continue
                status = self.status(sha256)
                if status is not None:
                    yield sha256, status

    def unlinked(self, *, older_than_s: float) -> set[Sha256]:
        """Blobs that may be orphans: without a second hard link, which is a snapshot's or would keep the bytes anyway,
        and older than `older_than_s` seconds, since younger ones may be about to be published."""
        before = time.time() - older_than_s
        return {sha256 for sha256, status in self.all() if status.st_nlink == 1 and status.st_mtime <= before}

    def sweep(self) -> None:
        """Remove blobs that a `free` that died a day ago left under staging names."""
        for prefix in names(self._layout.blobs):
            sweep(self._layout.blobs / prefix)

    def free(self, candidates: Iterable[Sha256], blobs_in_use: Callable[[], Set[Sha256] | None]) -> int:
        """Remove those of `candidates` that no snapshot uses, and return the number of bytes freed.

        `blobs_in_use` returns the blobs that all snapshots name, or None when a manifest cannot be read; then nothing
        is removed. It is called twice, since another process may publish a snapshot with one of the blobs in between.
        The order protects such a publication. Here a blob is renamed first, then `blobs_in_use` is read again, and a
        blob that is in use by then is renamed back. `Snapshots.publish` first makes the snapshot visible, then looks
        for each blob again. So one of the two always sees the other.
        """
        in_use = blobs_in_use()
        moved: list[tuple[Path, Path, Sha256]] = []
        for sha256 in sorted(set(candidates) - in_use) if in_use is not None else ():
            blob = self._layout.blob(sha256)
            try:
                self._layout.check_directory(blob.parent)
                hidden = staging_name(blob.parent)
                _touch(blob)  # `sweep` goes by age, and a blob may be old
                blob.rename(hidden)
            except FileNotFoundError:
                continue
            moved.append((blob, hidden, sha256))
        in_use = blobs_in_use() if moved else in_use
        freed_bytes = 0
        for blob, hidden, sha256 in moved:
            if in_use is None or sha256 in in_use:
                hidden.rename(blob)
            else:
                status = hidden.lstat()
                freed_bytes += status.st_size if status.st_nlink == 1 else 0
            remove(hidden)  # also after the rename: rename(2) keeps both names where they are links to the same file
            sync_directory(blob.parent)
        return freed_bytes

    def _missing(self, sha256: Sha256) -> BlobMissing:
        return BlobMissing(
            f"the blob {sha256} was collected as an orphan before it was published", cure="fetch that file again"
        )


def _touch(blob: Path) -> None:
    with suppress(PermissionError):  # another user's blob keeps its age
        os.utime(blob, follow_symlinks=False)


def _sync_regular(path: Path, size: int) -> None:
    """Fsync a staged file. Raises CorruptFile where it is no regular file of that size."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            raise CorruptFile(
                f"the staged file {path} has {status.st_size} bytes, not the {size} that were checked",
                cure="fetch it again",
            )
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
