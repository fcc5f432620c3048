"""Copies from the volume to S3. Each blob is verified on its way, and the manifest goes last.

From S3 to the volume there is no copy of its own: an object is a source (`S3Store.source`) for `paddock.transfer`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from paddock.errors import CorruptFile
from paddock.model.artifact import Manifest, SnapshotFile
from paddock.store.repair import cure_of, put_aside
from paddock.store.s3 import S3Store
from paddock.store.volume import Volume


@dataclass(frozen=True, slots=True)
class Copied:
    """`blobs` were sent, in `bytes_transferred`; `already` were there. `files` says of each file what was sent of it:
    of two with the same bytes the second one is there by then."""

    bytes_transferred: int
    blobs: int
    already: int
    seconds: float = field(default=0.0, compare=False)
    files: tuple[tuple[SnapshotFile, int], ...] = field(default=(), compare=False, repr=False)

    @property
    def rate_bytes_per_s(self) -> float:
        return self.bytes_transferred / self.seconds if self.seconds else 0.0


def push(volume: Volume, s3: S3Store, manifest: Manifest, *, progress: Callable[[int], None] | None = None) -> Copied:
    """Copy a snapshot to S3. `progress` is told the bytes of each part that arrived.

    Raises CorruptFile for a blob that is damaged on the volume, and BlobMissing for one that is gone; then S3 shows no
    new snapshot.
    """
    began = time.monotonic()
    sent: list[tuple[SnapshotFile, int]] = []
    for file in manifest.files:
        path, unit = volume.blob_path(file.sha256), manifest.segment_bytes
        try:
            sent.append((file, s3.put_blob(path, file, segment_bytes=unit, progress=progress)))
        except CorruptFile as error:
            put_aside(volume, file.sha256)
            raise CorruptFile(error.message, cure=cure_of(manifest.id)) from None
    s3.publish(manifest)
    moved = {file.sha256 for file, sent_bytes in sent if sent_bytes}
    return Copied(
        bytes_transferred=sum(sent_bytes for _, sent_bytes in sent),
        blobs=len(moved),
        already=len({file.sha256 for file in manifest.files} - moved),
        seconds=time.monotonic() - began,
        files=tuple(sent),
    )
