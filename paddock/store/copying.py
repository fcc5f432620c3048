"""Copies between the two stores. Each blob is verified on its way, and the manifest goes last.

From S3 to the volume there is no copy of its own: an object is a source (`S3Store.source`) for `paddock.transfer`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from paddock.model.artifact import Manifest
from paddock.store.s3 import S3Store
from paddock.store.volume import Volume


@dataclass(frozen=True, slots=True)
class Copied:
    """`blobs` were sent, in `bytes_transferred`; `already` were there."""

    bytes_transferred: int
    blobs: int
    already: int


def push(volume: Volume, s3: S3Store, manifest: Manifest, *, progress: Callable[[int], None] | None = None) -> Copied:
    """Copy a snapshot to S3. `progress` is told the bytes of each part that arrived.

    Raises CorruptFile for a blob that is damaged on the volume, and BlobMissing for one that is gone; then S3 shows no
    new snapshot.
    """
    sent_bytes = sent = already = 0
    for file in {file.sha256: file for file in manifest.files}.values():
        if s3.has_blob(file.sha256, file.size):
            already += 1
            continue
        sent_bytes += s3.put_blob(
            volume.blob_path(file.sha256), file, segment_bytes=manifest.segment_bytes, progress=progress
        )
        sent += 1
    s3.publish(manifest)
    return Copied(bytes_transferred=sent_bytes, blobs=sent, already=already)
