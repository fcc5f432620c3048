"""Repair of damaged blobs: what is found to be damaged is put aside, and the next transfer fetches the damaged part.

A blob that was put aside is absent: whoever needs it fetches it from S3 or the Hub, and that transfer begins with a
copy of the damaged bytes, of which every sound segment is kept."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from paddock.errors import CorruptFile, NoPermission, NotOnVolume, PaddockError
from paddock.model.artifact import Manifest, SnapshotFile
from paddock.model.names import Sha256
from paddock.model.reference import SnapshotId
from paddock.model.source import Expected
from paddock.store.volume import Volume
from paddock.transfer.digest import BLOCK_BYTES, SegmentHash, verify_file
from paddock.transfer.seed import seed

_SMALL_BYTES = 16 * 1024 * 1024

log = logging.getLogger(__name__)


def cure_of(id: SnapshotId) -> str:
    """What to do about a damaged file of a snapshot."""
    return f"pull it again with `paddock pull {id}`: only what is damaged is fetched"


def put_aside(volume: Volume, sha256: Sha256, *, found_at: Path | None = None) -> None:
    """Move a damaged blob to the quarantine. On a volume that may not be written it stays, and a warning says so.

    `found_at` is the file of a snapshot that was found to be damaged: where that is no longer the blob, which was
    repaired meanwhile, the blob stays.
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
    """After a damaged blob was fetched again: let every snapshot that names it show the sound one, and remove the
    damaged copies."""
    if not volume.quarantined(sha256):
        return
    for manifest, _ in list(vouching(volume, sha256)):
        try:
            volume.publish(manifest)
        except PaddockError as error:  # it lacks another blob: pulling it brings that one
            log.warning("%s still shows a damaged file: %s", manifest.id.short, error.message)
    volume.drop_quarantined(sha256)


def begin_with_damaged(volume: Volume, expected: Expected, *, segment_bytes: int) -> None:
    """Let the next transfer of these bytes begin with a damaged copy that was put aside, where there is one whose
    segments a manifest knows."""
    if expected.sha256 is None:
        return
    for damaged in volume.quarantined(expected.sha256):
        for manifest, file in vouching(volume, expected.sha256):
            if manifest.segment_bytes != segment_bytes:
                continue
            with suppress(OSError):  # then all of it is fetched
                if seed(damaged, expected, file.segments, staging=volume.partial, segment_bytes=segment_bytes):
                    return


def vouching(volume: Volume, sha256: Sha256) -> Iterator[tuple[Manifest, SnapshotFile]]:
    """The manifests that name a blob, and the file that it is in each."""
    for manifest in volume.snapshots():
        for file in manifest.files:
            if file.sha256 == sha256:
                yield manifest, file


def check_beginning(path: Path, file: SnapshotFile, *, segment_bytes: int) -> None:
    """Compare the first segment of a blob with its digest, and a small blob as a whole. Raises CorruptFile."""
    if file.size <= _SMALL_BYTES:
        verify_file(path, Expected(file.size, file.sha256), segment_bytes)
        return
    if not file.segments:
        return
    digest = SegmentHash(file.segments[0])
    left = min(segment_bytes, file.size)
    with path.open("rb", buffering=0) as blob:
        while left and (block := blob.read(min(left, BLOCK_BYTES))):
            digest.update(block)
            left -= len(block)
    if digest.digest != file.segments[0]:
        raise CorruptFile(f"the first segment of {path} has another digest than was stored", cure="fetch it again")
