"""One file onto the volume, as a verified blob, from wherever it is nearest: the volume itself, else S3, else the Hub.

What it does not do: choose the files, audit them, or make anything visible.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from paddock.errors import BlobMissing, CorruptFile, PaddockError, TransferRefused
from paddock.lifecycle import fleet
from paddock.lifecycle.parts import Parts
from paddock.model.artifact import Listing, Manifest, RepositoryFile, SnapshotFile
from paddock.model.finding import Finding
from paddock.model.names import Sha256
from paddock.model.quantization import is_gguf
from paddock.model.source import Expected, Source
from paddock.store import repair
from paddock.store.s3 import S3Store
from paddock.transfer.digest import verify_file
from paddock.transfer.fetch import fetch, forget
from paddock.transfer.options import Options
from paddock.transfer.progress import Moved, Progress

if TYPE_CHECKING:
    from paddock.gguf.passing import PassingWeights

Origin = Literal["hub", "s3", "volume"]

_S3_SPAN_BYTES = 16 * 1024 * 1024
"""What one request asks S3 for: Amazon advises 8 to 16 MiB, and SeaweedFS reads chunks of 8 MiB. A death costs as many
of them as there are connections, which is little where the source is near."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Row:
    """One file of a plan: what it must be, and where it will come from. `shared`: where the Hub is asked for it, it is
    asked once for all workers that have the same S3."""

    file: RepositoryFile
    expected: Expected
    origin: Origin
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Acquired:
    """One file on the volume, and where it came from in the end. `transferred_bytes` came over the network in this run,
    0 when it was there.

    `weights` are the findings on a GGUF's weights, from the pass that hashed it: none for a file that is no GGUF, or
    that a published snapshot vouches for. None: nobody looked at them yet.
    """

    file: SnapshotFile
    origin: Origin
    transferred_bytes: int
    weights: tuple[Finding, ...] | None = ()


@dataclass(frozen=True, slots=True)
class _Way:
    """What every way to a file has in common. `segment_bytes` is the unit of its digests."""

    parts: Parts
    row: Row
    segment_bytes: int
    progress: Moved | None
    cancel: threading.Event | None

    def told(self, progress: Moved) -> _Way:
        return replace(self, progress=progress)


def beyond_volume(s3: S3Store | None, digest: Sha256, size: int) -> tuple[Origin, bool]:
    """(where a file comes from that the volume lacks, whether the Hub is asked for it once for all workers)."""
    if s3 is None:
        return "hub", False
    return "s3" if s3.has_blob(digest, size) else "hub", size >= fleet.WORTH_A_TURN_BYTES


def acquire_file(
    parts: Parts,
    listing: Listing,
    row: Row,
    *,
    progress: Moved | None = None,
    cancel: threading.Event | None = None,
) -> Acquired:
    """Bring one file onto the volume as a verified blob, or find that it is there.

    A blob that no snapshot vouches for is read through; where it is damaged it goes to quarantine, and is fetched.
    Where S3 has other bytes than it should, or refuses them, the Hub is asked instead, and what came from there takes
    the place of what was wrong.
    """
    digest = row.expected.sha256
    if row.origin == "volume" and digest:
        there = _if_sound(_Way(parts, row, parts.settings.segment_bytes, progress, cancel), digest)
        if there:
            return there
        origin, shared = beyond_volume(parts.s3, digest, row.file.size)
        row = replace(row, origin=origin, shared=shared)
    way = _Way(parts, row, parts.settings.segment_bytes, progress, cancel)
    hub = parts.hub.file(listing.model, listing.revision, row.file)
    s3 = parts.s3
    if s3 is None or digest is None:
        return _fetched(way, hub, "hub")
    if row.shared:
        return fleet.fetch_once(
            s3,
            digest,
            row.file,
            lease_s=parts.settings.lease_s,
            nearer=lambda: _if_sound(way, digest) if parts.volume.has_blob(digest, row.file.size) else None,
            from_s3=lambda: _fetched(way, _in_s3(s3, row, digest), "s3"),
            from_hub=lambda told: _fetched(way.told(_both(told, progress)), hub, "hub"),
            share=lambda acquired, sent: s3.put_blob(
                parts.volume.blob_path(digest), acquired.file, segment_bytes=way.segment_bytes, progress=sent
            ),
            cancel=cancel,
        )
    if row.origin == "hub":
        return _fetched(way, hub, "hub")
    try:
        return _fetched(way, _in_s3(s3, row, digest), "s3")
    except (CorruptFile, TransferRefused) as error:
        log.warning("%s; it is fetched from the Hub instead", error.message)
        wrong_bytes = isinstance(error, CorruptFile)
    acquired = _fetched(way, hub, "hub")
    if wrong_bytes:  # not before the right ones are here: that the last copy is damaged must not lose it
        _drop(s3, digest)
    return acquired


def restore_file(
    parts: Parts,
    row: Row,
    *,
    segment_bytes: int,
    progress: Moved | None = None,
    cancel: threading.Event | None = None,
) -> Acquired:
    """Bring one file onto the volume from S3 alone, or find that it is there.

    Its sha256 is what is verified, whatever the snapshot's manifest says of its segments. Raises CorruptFile where S3
    has other bytes, and TransferRefused where it has none.
    """
    way = _Way(parts, row, segment_bytes, progress, cancel)
    digest = row.expected.sha256
    if parts.s3 is None or digest is None:
        raise AssertionError("a row of a restoration has a digest, and is made where there is an S3")
    there = _if_sound(way, digest) if row.origin == "volume" else None
    return there or _fetched(way, _in_s3(parts.s3, row, digest), "s3")


def _if_sound(way: _Way, digest: Sha256) -> Acquired | None:
    """The blob of the volume where it is what it should be; one that is not goes to quarantine."""
    try:
        there = _stored(way, digest)
    except CorruptFile as error:
        log.warning("%s; it is put aside, and fetched again", error.message)
        way.parts.volume.quarantine(digest)
        return None
    except BlobMissing as error:
        log.warning("%s", error)
        return None
    forget(way.row.expected, staging=way.parts.volume.partial, options=Options.of(way.parts.settings))
    return there


def _in_s3(s3: S3Store, row: Row, digest: Sha256) -> Source:
    return s3.source(SnapshotFile(path=row.file.path, size=row.file.size, sha256=digest))


def _both(one: Moved, other: Moved | None) -> Moved:
    def told(progress: Progress) -> None:
        one(progress)
        if other:
            other(progress)

    return told


def _fetched(way: _Way, source: Source, origin: Origin) -> Acquired:
    parts, row = way.parts, way.row
    digest = row.expected.sha256
    weights = _passing(row)
    if digest is not None:
        repair.begin_with_damaged(parts.volume, row.expected, segment_bytes=way.segment_bytes)
    staged = fetch(
        source,
        staging=parts.volume.partial,
        options=replace(
            Options.of(parts.settings),
            segment_bytes=way.segment_bytes,
            span_bytes=_S3_SPAN_BYTES if origin == "s3" else None,
        ),
        progress=way.progress,
        tap=weights.take if weights else None,
        cancel=way.cancel,
        arrived=(lambda: parts.volume.has_blob(digest, row.file.size)) if digest else None,
    )
    if staged is None:
        if digest is None:
            raise AssertionError("only a file with a digest can arrive by another process")
        return _stored(way, digest)
    parts.volume.add_blob(staged.path, staged.sha256, staged.size)
    staged.discard()
    repair.finish(parts.volume, staged.sha256)
    file = SnapshotFile(path=row.file.path, size=staged.size, sha256=staged.sha256, segments=staged.segments)
    return Acquired(file, origin, staged.transferred_bytes, weights.findings() if weights else ())


def _passing(row: Row) -> PassingWeights | None:
    """Who looks at the weights of a GGUF while its bytes pass by."""
    if not is_gguf(row.file.path):
        return None
    from paddock.gguf.passing import PassingWeights  # loads numpy

    return PassingWeights(row.file.size)


def _drop(s3: S3Store, digest: Sha256) -> None:
    """Remove a damaged object, so that the next push sends it again. Keys that may not do so hold nothing up."""
    try:
        s3.drop_blob(digest)
    except PaddockError as error:
        log.warning("the damaged object %s stays in S3: %s", digest, error)


def _stored(way: _Way, digest: Sha256) -> Acquired:
    """Describe a blob of the volume: from a manifest that knows its segments, else by reading it through once. It is
    safe from being collected until the snapshot that it is for names it. Raises CorruptFile, BlobMissing.

    Of a blob that a manifest vouches for, the first segment is read, and a small one whole: that finds a damaged
    header. Damage further on is found by `paddock verify`, the validation and a copy to S3, which put it aside. One
    whose weights gave rise to a finding is read again, since a manifest has the rule and not the sentence."""
    volume, row = way.parts.volume, way.row
    volume.renew_blob(digest)
    for manifest, file in repair.vouching(volume, digest):
        if manifest.segment_bytes == way.segment_bytes and not _has_weak_weights(manifest, file):
            repair.check_beginning(volume.blob_path(digest), file, segment_bytes=way.segment_bytes)
            return Acquired(file.model_copy(update={"path": row.file.path}), "volume", 0)
    weights = _passing(row)
    seen, segments = verify_file(
        volume.blob_path(digest), row.expected, way.segment_bytes, tap=weights.take if weights else None
    )
    there = SnapshotFile(path=row.file.path, size=row.file.size, sha256=seen, segments=segments)
    return Acquired(there, "volume", 0, weights.findings() if weights else ())


def _has_weak_weights(manifest: Manifest, file: SnapshotFile) -> bool:
    return is_gguf(file.path) and any(one.rule.startswith("gguf.weights.") for one in manifest.findings)
