"""Check one blob of the volume: the blob itself, and the files of snapshots that should be links to it.

A damaged blob is quarantined at once, so that no snapshot with it is served. The bytes of each file are read once,
however many snapshots link it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from paddock.errors import PaddockError
from paddock.model.artifact import Manifest, SnapshotFile
from paddock.store import repair
from paddock.store.blob_check import FROM_THE_START, BlobCheck, Pace, Start, check_file
from paddock.store.named_blobs import NamedBlob
from paddock.store.volume import Volume
from paddock.store.volume.file_states import FileState

_Inode = tuple[int, int]


@dataclass(frozen=True, slots=True)
class CheckedUse:
    """A file of a snapshot: `check` is of its own bytes, `is_blob` says whether it is the blob itself, and `has_blob`
    whether there is a sound blob. A copy of the blob is sound too: a volume may be copied without its hard links."""

    manifest: Manifest
    file: SnapshotFile
    path: Path
    check: BlobCheck
    is_blob: bool
    has_blob: bool

    @property
    def ok(self) -> bool:
        return self.check.ok and self.has_blob


@dataclass(frozen=True, slots=True)
class CheckedBlob:
    """A blob as it was found: `check` is of the blob's own file. `is_stuck`: it is damaged, and could not be moved to
    the quarantine. `status`: of a sound blob that was read from its start on, and not changed meanwhile."""

    blob: NamedBlob
    check: BlobCheck
    uses: tuple[CheckedUse, ...]
    is_stuck: bool = False
    status: os.stat_result | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it is sound, and each file of a snapshot is a link to it."""
        return self.check.ok and all(use.check.ok and use.is_blob for use in self.uses)

    @property
    def sound_copy(self) -> Path | None:
        """A file of a snapshot with the blob's bytes, where the blob itself has lost them."""
        return next((use.path for use in self.uses if use.check.ok and not use.is_blob), None)


def check_blob(volume: Volume, blob: NamedBlob, pace: Pace, start: Start = FROM_THE_START) -> CheckedBlob:
    """Read a blob from `start` on, and each file of a snapshot that should be a link to it and is not; quarantine a
    damaged blob. Raises OutOfTime."""
    path = volume.blob_path(blob.sha256)
    check, status = check_file(path, blob, pace, start)
    unchanged = _unchanged(path, status) if check.ok and start.segment == 0 else None
    results: dict[_Inode, BlobCheck] = {} if status is None else {_inode(status): check}
    if check.damage and os.path.lexists(path):
        _quarantine(volume, blob, status)
    uses: list[CheckedUse] = []
    for manifest, file in blob.uses:
        at = volume.snapshot_path(manifest.id) / file.path
        inode = _inode_of(at)
        found = results.get(inode) if inode else None
        if found is None:
            found, read = check_file(at, blob, pace, follow=True)
            if read is not None:
                results[_inode(read)] = found
                if found.damage:
                    _keep(volume, at, blob)
        is_blob = status is not None and inode == _inode(status)
        uses.append(CheckedUse(manifest, file, at, found, is_blob, check.ok))
    is_stuck = bool(check.damage) and status is not None and _inode_of(path) == _inode(status)
    return CheckedBlob(blob, check, tuple(uses), is_stuck, unchanged)


def _quarantine(volume: Volume, blob: NamedBlob, status: os.stat_result | None) -> None:
    """Quarantine the file that was read, or what is no file in a blob's place. A blob that was repaired since stays."""
    now = _inode_of(volume.blob_path(blob.sha256))
    if status is None or now == _inode(status):
        repair.quarantine(volume, blob.sha256)


def _keep(volume: Volume, path: Path, blob: NamedBlob) -> None:
    """Keep a snapshot's damaged file, so that nobody uses the snapshot, and for the repair."""
    if not volume.quarantined(blob.sha256):
        with suppress(PaddockError):  # the whole file is fetched instead
            volume.keep_damaged(path, blob.sha256)


def _unchanged(path: Path, status: os.stat_result | None) -> os.stat_result | None:
    """The status of a file after it was read, if it is that from before."""
    try:
        after = path.lstat()
    except OSError:
        return None
    return after if status is not None and FileState.of(after) == FileState.of(status) else None


def _inode(status: os.stat_result) -> _Inode:
    return status.st_dev, status.st_ino


def _inode_of(path: Path) -> _Inode | None:
    try:
        return _inode(path.stat())
    except OSError:
        return None
