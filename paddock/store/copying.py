"""Copy a snapshot from the volume to a remote store: each blob is verified while it is sent, the manifest goes last.

The other direction is a fetch: a blob of a remote store is a source (`RemoteStore.source`) for `paddock.transfer`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from paddock.errors import CorruptFile
from paddock.model.artifact import Manifest, SnapshotFile
from paddock.model.units import human_bytes
from paddock.store.protocol import RemoteStore
from paddock.store.repair import cure_of, quarantine
from paddock.store.volume import Volume
from paddock.store.volume.verifications import in_remote


@dataclass(frozen=True, slots=True)
class CopyResult:
    """The result of a copy to the store with the label `where`: `blobs` were sent, with `bytes_transferred` in all, and
    `already` were in the store before. `files` are (file, bytes sent): of two files with the same bytes only the first
    is sent."""

    where: str = field(compare=False)
    bytes_transferred: int
    blobs: int
    already: int
    seconds: float = field(default=0.0, compare=False)
    files: tuple[tuple[SnapshotFile, int], ...] = field(default=(), compare=False, repr=False)

    @property
    def rate_bytes_per_s(self) -> float:
        return self.bytes_transferred / self.seconds if self.seconds else 0.0

    @property
    def line(self) -> str:
        sent, rate = human_bytes(self.bytes_transferred), human_bytes(round(self.rate_bytes_per_s))
        already = f"{self.already} of {self.already + self.blobs} blobs were there already"
        return f"{self.where}: {sent} sent at {rate}/s, {already}"


def push(
    volume: Volume, remote: RemoteStore, manifest: Manifest, *, progress: Callable[[int], None] | None = None
) -> CopyResult:
    """Copy a snapshot. `progress` is called with the size of each part that was sent, in bytes.

    Raises CorruptFile for a blob that is damaged on the volume, and BlobMissing for one that is gone; then no new
    snapshot is visible in the remote store.
    """
    started = time.monotonic()
    sent: list[tuple[SnapshotFile, int]] = []
    for file in manifest.files:
        try:
            sent.append((file, send_blob(volume, remote, file, manifest.segment_bytes, progress=progress)))
        except CorruptFile as error:
            quarantine(volume, file.sha256)
            raise CorruptFile(error.message, cure=cure_of(manifest.id)) from None
    remote.publish(manifest)
    copied = {file.sha256 for file, sent_bytes in sent if sent_bytes}
    return CopyResult(
        where=remote.label,
        bytes_transferred=sum(sent_bytes for _, sent_bytes in sent),
        blobs=len(copied),
        already=len({file.sha256 for file in manifest.files} - copied),
        seconds=time.monotonic() - started,
        files=tuple(sent),
    )


def send_blob(
    volume: Volume,
    remote: RemoteStore,
    file: SnapshotFile,
    segment_bytes: int,
    *,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Copy one blob, as `RemoteStore.put_blob`, and record that it was verified there: what is sent is hashed while it
    is sent. Of a blob that the remote store had before, nothing is recorded: its bytes were not read."""
    path = volume.blob_path(file.sha256)
    sent_bytes = remote.put_blob(path, file, segment_bytes=segment_bytes, progress=progress)
    tag = remote.blob_tag(file.sha256, file.size) if sent_bytes else None
    if tag is not None:
        volume.verifications.record(file.sha256, in_remote(remote.label), tag=tag)
    return sent_bytes
