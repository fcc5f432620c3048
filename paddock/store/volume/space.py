"""The bytes that the volume stores beside its blobs: partial downloads, the quarantine, and what dead writers left."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from paddock.store.durable import STAGING_PREFIX, disk_errors
from paddock.store.volume.layout import Layout


class Space:
    def __init__(self, layout: Layout) -> None:
        self.root = layout.root
        self._layout = layout

    @disk_errors
    def beside(self) -> dict[str, int]:
        """Bytes on the disk by name: `partial`, `quarantine`, and `trash` under staging names. A file that has another
        link is not counted as trash, since its bytes are those of a blob."""
        blobs, snapshots = self._layout.blobs, self._layout.snapshots
        directories = [self._layout.private, blobs, *(blobs / name for name in self._layout.names(blobs))]
        directories += [revision for model in self._below(snapshots) for revision in self._below(model)]
        trash = [
            directory / name
            for directory in directories
            for name in self._layout.names(directory)
            if name.startswith(STAGING_PREFIX)
        ]
        return {
            "partial": _on_disk(self._layout.partial),
            "quarantine": _on_disk(self._layout.quarantine),
            "trash": sum(_on_disk(path, single_links=True) for path in trash),
        }

    @disk_errors
    def quarantined_files(self) -> int:
        """How many damaged copies of blobs are in the quarantine."""
        return len(
            [name for name in self._layout.names(self._layout.quarantine) if not name.startswith(STAGING_PREFIX)]
        )

    def _below(self, directory: Path) -> list[Path]:
        return [directory / name for name in self._layout.names(directory)]


def _on_disk(path: Path, *, single_links: bool = False) -> int:
    """The bytes that the files of a tree, or a single file, take on the disk."""
    paths = [path, *(Path(parent, name) for parent, _, files in os.walk(path) for name in files)]
    total = 0
    for one in paths:
        with suppress(FileNotFoundError):  # another process removed it
            status = one.lstat()
            if stat.S_ISREG(status.st_mode) and (status.st_nlink == 1 or not single_links):
                total += status.st_blocks * 512
    return total
