"""Repair damaged blobs: move them to the quarantine, and let the next transfer fetch only the damaged segments.

A quarantined blob is absent: whoever needs it fetches it from a remote store or the Hub, and that transfer starts from
a copy of the damaged bytes, of which it keeps every segment that is intact.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from paddock.errors import CorruptFile, NoPermission, NotOnVolume, PaddockError
from paddock.model.artifact import Manifest, SnapshotFile
from paddock.model.names import SegmentDigest, Sha256
from paddock.model.reference import SnapshotId
from paddock.model.source import Expected
from paddock.store.volume import Volume
from paddock.store.volume.file_states import RECORDED_BYTES
from paddock.transfer.digest import BLOCK_BYTES, SegmentHash, verify_file
from paddock.transfer.seed import seed
from paddock.untrusted.files import open_regular

log = logging.getLogger(__name__)


def cure_of(id: SnapshotId) -> str:
    """The cure for a damaged file of a snapshot, for an error message."""
    return f"pull it again with `paddock pull {id}`: only what is damaged is fetched"


def quarantine(volume: Volume, sha256: Sha256, *, found_at: Path | None = None) -> None:
    """Move a damaged blob to the quarantine. On a read-only volume it stays, with a warning.

    `found_at` is the file of a snapshot in which the damage was found. Where it is no longer the same file as the blob,
    because the blob was repaired meanwhile, the blob stays.
    """
    blob = volume.blob_path(sha256)
    try:
        if found_at is None or found_at.samefile(blob):
            volume.quarantine(sha256)
    except (NotOnVolume, FileNotFoundError):
        pass
    except NoPermission as error:
        log.warning("the damaged blob %s stays where it is: %s", sha256, error.message)


def finish(volume: Volume, sha256: Sha256) -> None:
    """After a damaged blob was fetched again, link it into every snapshot that names it, and remove the damaged
    copies."""
    if not volume.quarantined(sha256):
        return
    for manifest, _ in list(manifests_with(volume, sha256)):
        try:
            volume.publish(manifest)
        except PaddockError as error:  # the snapshot lacks another blob too, which its next pull fetches
            log.warning("%s still shows a damaged file: %s", manifest.id.short, error.message)
    volume.drop_quarantined(sha256)


def seed_from_quarantine(volume: Volume, expected: Expected, *, segment_bytes: int) -> None:
    """Let the next transfer of a file start from a damaged copy in the quarantine, where there is one, and a manifest
    has its segment digests."""
    if expected.sha256 is None or not volume.quarantined(expected.sha256):
        return
    for manifest, file in manifests_with(volume, expected.sha256):
        if manifest.segment_bytes == segment_bytes and seed_with(
            volume, expected, file.segments, segment_bytes=segment_bytes
        ):
            return


def seed_with(volume: Volume, expected: Expected, segments: Sequence[SegmentDigest], *, segment_bytes: int) -> bool:
    """As `seed_from_quarantine`, with the digests of the file's segments. Returns whether there was a copy to start
    from."""
    if expected.sha256 is None:
        return False
    for damaged in volume.quarantined(expected.sha256):
        with suppress(OSError):  # the whole file is fetched instead
            if seed(damaged, expected, segments, staging=volume.partial, segment_bytes=segment_bytes):
                return True
    return False


def manifests_with(volume: Volume, sha256: Sha256) -> Iterator[tuple[Manifest, SnapshotFile]]:
    """The manifests that name a blob, each with the file that has its bytes."""
    for manifest in volume.snapshots():
        for file in manifest.files:
            if file.sha256 == sha256:
                yield manifest, file


def check_first_segment(path: Path, file: SnapshotFile, *, segment_bytes: int) -> None:
    """Compare the first segment of a blob with its digest, or all of a blob below 16 MiB. Raises CorruptFile."""
    if file.size < RECORDED_BYTES:
        verify_file(path, Expected(file.size, file.sha256), segment_bytes)
        return
    if not file.segments:
        return
    digest = SegmentHash(file.segments[0])
    left = min(segment_bytes, file.size)
    with os.fdopen(open_regular(path, follow=True), "rb", buffering=0) as blob:
        while left and (block := blob.read(min(left, BLOCK_BYTES))):
            digest.update(block)
            left -= len(block)
    if digest.digest != file.segments[0]:
        raise CorruptFile(
            f"the first segment of {path} has another digest than its manifest states", cure="fetch it again"
        )
