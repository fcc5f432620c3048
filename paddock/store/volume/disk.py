"""The volume's disk: free space, and whether the volume can be written."""

from __future__ import annotations

import os

from paddock.errors import NotEnoughDisk
from paddock.store import durable
from paddock.store.durable import disk_errors
from paddock.store.volume.layout import Layout

_GIB = 1024**3
_RESERVE_BYTES = 256 * 1024 * 1024  # for journals, manifests and reports; at most a hundredth of a small disk


class Disk:
    def __init__(self, layout: Layout) -> None:
        self.root = layout.root
        self._layout = layout

    @disk_errors
    def prepare(self) -> None:
        """Make the directories that are missing, and write a file to see that the volume can be written. Raises
        NoPermission with the path."""
        self.root.mkdir(parents=True, exist_ok=True)
        for directory in (self._layout.partial, self._layout.blobs, self._layout.snapshots):
            self._layout.make_directory(directory)
        probe = durable.staging_name(self._layout.private)
        try:
            durable.write_new(probe, b"")
        finally:
            probe.unlink(missing_ok=True)

    @disk_errors
    def free_bytes(self) -> int:
        """The free space on the disk where the root is or will be, for a process without privileges."""
        return self._sizes()[0]

    @disk_errors
    def require(self, need_bytes: int) -> None:
        """Raise NotEnoughDisk unless `need_bytes` fit beside a reserve."""
        free, total = self._sizes()
        reserve = min(_RESERVE_BYTES, total // 100)
        missing = need_bytes + reserve - free
        if missing > 0:
            raise NotEnoughDisk(
                f"{self.root} has {free / _GIB:.2f} GiB free, and {need_bytes / _GIB:.2f} GiB are needed beside a"
                f" reserve of {reserve / _GIB:.2f} GiB: {missing / _GIB:.2f} GiB ({missing} bytes) are missing",
                cure="free space there (`paddock rm`), or choose a smaller quantization",
            )

    def _sizes(self) -> tuple[int, int]:
        """(free, total) bytes."""
        path = self.root
        while not path.exists() and path != path.parent:
            path = path.parent
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
