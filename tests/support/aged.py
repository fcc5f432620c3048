"""Let snapshots and blobs look older than they are: what is new is never evicted."""

from __future__ import annotations

import os
import time

from paddock.model.reference import SnapshotId
from paddock.store.volume import Volume

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


def age(volume: Volume, *ids: SnapshotId, by_s: float = 2 * HOUR_S) -> None:
    """Make these snapshots, or by default all, and their blobs, so old."""
    then = time.time() - by_s
    for manifest in volume.snapshots():
        if not ids or manifest.id in ids:
            os.utime(volume.snapshot_path(manifest.id), (then, then))
            for file in manifest.files:
                os.utime(volume.blob_path(file.sha256), (then, then))


def use(volume: Volume, id: SnapshotId, *, ago_s: float) -> None:
    """Record that a snapshot was used so long ago."""
    volume.usage.touch(id)
    then = time.time() - ago_s
    record = volume.root / ".paddock" / "usage" / id.model.slug / id.revision / id.variant
    os.utime(record, (then, then))
