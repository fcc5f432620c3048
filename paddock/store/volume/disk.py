"""The volume's disk: free space, and whether the volume can be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from paddock.errors import NoPermission, NotEnoughDisk
from paddock.store import durable
from paddock.store.durable import disk_errors
from paddock.store.volume.layout import Layout

_GIB = 1024**3
_IS_DIRECTORY = frozenset({errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.EBUSY})
_INODES_PER_FILE = 6  # the blob, its directory, its link, and the directories and the journal of its transfer
_INODES = 24  # directories, the manifest, derived files, the history, and links
_RESERVE_BYTES = 256 * 1024 * 1024  # for journals, manifests and reports; at most a hundredth of a small disk


class Disk:
    def __init__(self, layout: Layout) -> None:
        self.root = layout.root
        self._layout = layout

    @disk_errors
    def prepare(self) -> None:
        """Make the directories that are missing, and check that the volume can be written, and is one file system as
        far as files are renamed. Raises NoPermission with the path."""
        self.make_directories()
        staged = durable.staging_name(self._layout.partial)
        blob = durable.staging_name(self._layout.blobs)
        try:
            durable.write_new(staged, b"")
            self._check_rename(staged, blob)
            self._check_rename(blob, self._layout.private)
        finally:
            staged.unlink(missing_ok=True)
            blob.unlink(missing_ok=True)

    @disk_errors
    def make_directories(self) -> None:
        """Make the root, and the directories that every volume has, where they are missing."""
        self.root.mkdir(parents=True, exist_ok=True)
        for directory in (self._layout.partial, self._layout.blobs, self._layout.snapshots):
            self._layout.make_directory(directory)

    @staticmethod
    def _check_rename(file: Path, target: Path) -> None:
        """Check that a file can be renamed to `target`, which may be an existing directory: it stays as it is, and only
        a rename to another mount is refused before that."""
        try:
            file.rename(target)
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise NoPermission(
                    f"{file.parent} and {target.parent} are on different mounts, and files are renamed from one to the"
                    " other",
                    cure="mount the whole volume as one file system",
                ) from None
            if error.errno not in _IS_DIRECTORY:
                raise

    @disk_errors
    def free_bytes(self) -> int:
        """The free space on the disk where the root is or will be, for a process without privileges."""
        return self._sizes()[0]

    @disk_errors
    def total_bytes(self) -> int:
        """The size of the disk where the root is or will be."""
        return self._sizes()[1]

    @disk_errors
    def missing_bytes(self, need_bytes: int) -> int:
        """How many of `need_bytes` do not fit beside the reserve; 0 where all do."""
        free, total = self._sizes()
        return max(0, need_bytes + _reserve(total) - free)

    @disk_errors
    def require(self, need_bytes: int, *, files: int = 0) -> None:
        """Raise NotEnoughDisk unless `need_bytes` fit beside a reserve, and there are inodes for so many new files of a
        snapshot."""
        self.require_inodes(files)
        free, total = self._sizes()
        reserve = _reserve(total)
        missing = need_bytes + reserve - free
        if missing > 0:
            raise NotEnoughDisk(
                f"{self.root} has {free / _GIB:.2f} GiB free, and {need_bytes / _GIB:.2f} GiB are needed beside a"
                f" reserve of {reserve / _GIB:.2f} GiB: {missing / _GIB:.2f} GiB ({missing} bytes) are missing",
                cure="free space there (`paddock rm`), or choose a smaller quantization",
            )

    @disk_errors
    def require_inodes(self, files: int) -> None:
        """Raise NotEnoughDisk unless there are inodes for so many new files of a snapshot."""
        needed = _INODES + files * _INODES_PER_FILE if files else 0
        status = self._status()
        if status.f_files and status.f_favail < needed:  # without a number of files there is no limit
            raise NotEnoughDisk(
                f"{self.root} has {status.f_favail} free inodes, and {needed} are needed",
                cure="remove files there, or make the file system with more inodes",
            )

    def _sizes(self) -> tuple[int, int]:
        """(free, total) bytes."""
        status = self._status()
        return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize

    def _status(self) -> os.statvfs_result:
        """The status of the file system where the root is or will be."""
        path = self.root
        while not path.exists() and path != path.parent:
            path = path.parent
        return os.statvfs(path)


def _reserve(total_bytes: int) -> int:
    return min(_RESERVE_BYTES, total_bytes // 100)
