"""Copy a snapshot from the volume to a remote store: each blob is verified on its way, the manifest goes last.

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
from paddock.store.repair import cure_of, put_aside
from paddock.store.volume import Volume


@dataclass(frozen=True, slots=True)
class Copied:
    """The result of a copy to the store `where`: `blobs` were sent, in `bytes_transferred`; `already` were there.
    `files` are (file, bytes sent): of two with the same bytes the second one is there by then."""

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
        there = f"{self.already} of {self.already + self.blobs} blobs were there already"
        return f"{self.where}: {sent} sent at {rate}/s, {there}"


def push(
    volume: Volume, remote: RemoteStore, manifest: Manifest, *, progress: Callable[[int], None] | None = None
) -> Copied:
    """Copy a snapshot. `progress` is called with the bytes of each part that arrived.

    Raises CorruptFile for a blob that is damaged on the volume, and BlobMissing for one that is gone; then the
    remote store shows no new snapshot.
    """
    began = time.monotonic()
    sent: list[tuple[SnapshotFile, int]] = []
    for file in manifest.files:
        path, unit = volume.blob_path(file.sha256), manifest.segment_bytes
        try:
            sent.append((file, remote.put_blob(path, file, segment_bytes=unit, progress=progress)))
        except CorruptFile as error:
            put_aside(volume, file.sha256)
            raise CorruptFile(error.message, cure=cure_of(manifest.id)) from None
    remote.publish(manifest)
    moved = {file.sha256 for file, sent_bytes in sent if sent_bytes}
    return Copied(
        where=remote.label,
        bytes_transferred=sum(sent_bytes for _, sent_bytes in sent),
        blobs=len(moved),
        already=len({file.sha256 for file in manifest.files} - moved),
        seconds=time.monotonic() - began,
        files=tuple(sent),
    )
