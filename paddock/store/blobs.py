"""The blobs of a volume: bytes that were checked, under the name of their digest, read-only.

A blob that no snapshot names is an *orphan*: the publication that it was for is still under way, or died, or its
snapshot was replaced or removed.
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
from paddock.store.durable import names, remove, rename_unless_there, staging_name, sweep, sync_directory, write_new
from paddock.store.layout import Layout

_READ_ONLY = 0o444


class Blobs:
    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def has(self, sha256: Sha256, size: int) -> bool:
        status = self.status(sha256)
        return status is not None and status.st_size == size

    def status(self, sha256: Sha256) -> os.stat_result | None:
        """None where there is no regular file of that name."""
        try:
            status = self._layout.blob(sha256).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status if stat.S_ISREG(status.st_mode) else None

    def add(self, staged: Path, sha256: Sha256, size: int) -> Path:
        blob = self._layout.blob(sha256)
        self._layout.made(blob.parent)
        if not self.has(sha256, size):
            _sync_regular(staged, size)
            try:
                rename_unless_there(staged, blob)
            except FileExistsError:
                if not self.has(sha256, size):  # cut short by a failing disk: it must not stay in the way
                    staged.rename(blob)
        # After the rename, so that a staged file whose owner dies here can still be written by the next one; and each
        # time, since the last one may have died before it.
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
            staged = staging_name(self._layout.made(self._layout.partial))
            try:
                write_new(staged, content, mode=0o600)
                self.add(staged, sha256, len(content))
            finally:
                staged.unlink(missing_ok=True)
        return sha256

    def renew(self, sha256: Sha256) -> None:
        """Let its age begin anew, so that it is not collected before the publication that it is for. Raises
        BlobMissing."""
        try:
            _touch(self._layout.blob(sha256))
        except FileNotFoundError:
            raise self._missing(sha256) from None

    def quarantine(self, sha256: Sha256) -> Path:
        target = self._layout.made(self._layout.quarantine) / f"{sha256}-{secrets.token_hex(4)}"
        blob = self._layout.blob(sha256)
        try:
            self._layout.check(blob.parent)
            blob.rename(target)
        except FileNotFoundError:
            raise NotOnVolume(f"the blob {sha256} is not on the volume {self._layout.root}") from None
        sync_directory(blob.parent)
        return target

    def quarantined(self, sha256: Sha256) -> list[Path]:
        """The damaged copies of a blob that were put aside."""
        home = self._layout.quarantine
        return [home / name for name in names(home) if name.startswith(f"{sha256}-")]

    def all(self) -> Iterator[tuple[Sha256, os.stat_result]]:
        for fan in names(self._layout.blobs):
            for name in names(self._layout.blobs / fan):
                try:
                    sha256 = parse_sha256(name)
                except UnsafeName:
                    continue
                status = self.status(sha256)
                if status is not None:
                    yield sha256, status

    def unlinked(self, *, older_than_s: float) -> set[Sha256]:
        """Those that may be orphans: written longer ago than that, since younger ones may be about to be published, and
        without a second hard link, which is a snapshot's or would keep the bytes anyway."""
        before = time.time() - older_than_s
        return {sha256 for sha256, status in self.all() if status.st_nlink == 1 and status.st_mtime <= before}

    def sweep(self) -> None:
        """Remove what a `free` that died left aside a day ago."""
        for fan in names(self._layout.blobs):
            sweep(self._layout.blobs / fan)

    def free(self, candidates: Iterable[Sha256], used: Callable[[], Set[Sha256] | None]) -> int:
        """Remove those of `candidates` that nothing uses, and return the bytes that came free.

        `used` reads what every snapshot names, or says None when it cannot know; then nothing is removed. It is asked
        twice, since a publication in another process may link to a blob in between. The order is what protects it: here
        a blob is first moved away, then `used` is read again, and what is used by then is moved back; there the
        snapshot first becomes visible, then every blob is looked for again. So one of the two always sees the other.
        """
        named = used()
        moved: list[tuple[Path, Path, Sha256]] = []
        for sha256 in sorted(set(candidates) - named) if named is not None else ():
            blob = self._layout.blob(sha256)
            try:
                self._layout.check(blob.parent)
                away = staging_name(blob.parent)
                _touch(blob)  # `sweep` judges by age, and a blob may be old
                blob.rename(away)
            except FileNotFoundError:
                continue
            moved.append((blob, away, sha256))
        named = used() if moved else named
        freed = 0
        for blob, away, sha256 in moved:
            if named is None or sha256 in named:
                away.rename(blob)
            else:
                status = away.lstat()
                freed += status.st_size if status.st_nlink == 1 else 0
            remove(away)  # also after the rename: of two links to the same file it takes neither away
            sync_directory(blob.parent)
        return freed

    def _missing(self, sha256: Sha256) -> BlobMissing:
        return BlobMissing(
            f"the blob {sha256} was collected as an orphan before it was published", cure="fetch that file again"
        )


def _touch(blob: Path) -> None:
    with suppress(PermissionError):  # another user's: its age stays
        os.utime(blob, follow_symlinks=False)


def _sync_regular(path: Path, size: int) -> None:
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
