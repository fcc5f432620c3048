"""Fetch one file onto the volume as a verified blob: from the remote store, else from the Hub.

A blob that the volume has already is verified and not fetched. This module does not choose, audit or publish files.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from paddock.errors import BlobMissing, CorruptFile, NotOnVolume, PaddockError, TransferInterrupted, TransferRefused
from paddock.lifecycle.acquire.lease_wait import fetch_once
from paddock.lifecycle.acquire.plan import origin_beyond_volume
from paddock.lifecycle.acquire.reuse import NOTHING_SEEDED, seed_from_stored
from paddock.lifecycle.clients import Clients, require_remote
from paddock.lifecycle.counts import counting_received
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.steps import step
from paddock.model.acquired import Acquired, Origin, PlannedFile
from paddock.model.artifact import Listing, Manifest, SnapshotFile
from paddock.model.names import ModelName, Sha256
from paddock.model.quantization import is_gguf
from paddock.model.source import Expected, Source
from paddock.model.units import human_bytes
from paddock.store import repair
from paddock.store.copying import send_blob
from paddock.store.protocol import RemoteStore
from paddock.store.volume.file_states import RECORDED_BYTES, FileState
from paddock.transfer.digest import verify_file
from paddock.transfer.fetch import fetch, remove_leftovers
from paddock.transfer.options import Options
from paddock.transfer.progress import OnProgress, Progress

if TYPE_CHECKING:
    from paddock.gguf.streaming_scan import StreamingWeightsScan

_REMOTE_SPAN_BYTES = 16 * 1024 * 1024
"""The size of a range request to a remote store. Amazon advises 8 to 16 MiB, and SeaweedFS reads chunks of 8 MiB. A
process that is killed loses one range for each connection, which costs little with a near store."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _FetchContext:
    """Shared context of a blob fetch, whichever source it uses. `segment_bytes` is the unit of the blob's segment
    digests."""

    clients: Clients
    model: ModelName
    planned: PlannedFile
    segment_bytes: int
    progress: OnProgress | None
    cancel: threading.Event | None


@step(
    Kind.TRANSFER,
    "fetch-{planned.file.path}",
    line=lambda acquired: (
        f"{acquired.file.path}: {human_bytes(acquired.transferred_bytes)} fetched, from {acquired.origin}"
    ),
)
def fetch_file(
    clients: Clients,
    listing: Listing,
    planned: PlannedFile,
    *,
    progress: OnProgress | None = None,
    cancel: threading.Event | None = None,
) -> Acquired:
    """Fetch one file onto the volume as a verified blob, unless it has it. A later try resumes an earlier one.

    A blob on the volume that no manifest lists is read as a whole; a damaged one is quarantined and fetched again.
    Where the remote store has wrong bytes, or never sends any, the file is fetched from the Hub, and replaces the wrong
    bytes in the remote store. A digest of a manifest, which the Hub does not state, only says where the bytes may be:
    bytes of another git blob than the Hub's are not used.
    """
    context = _FetchContext(clients, listing.model, planned, clients.settings.segment_bytes, progress, cancel)
    digest = planned.expected.sha256
    if digest is not None and planned.file.sha256 is None and planned.file.git_sha1 is not None:
        acquired = _acquired_by_stated_digest(context, digest)
        if acquired:
            return acquired
        own = Expected(planned.file.size, None, planned.file.git_sha1)
        context, digest = replace(context, planned=PlannedFile(planned.file, own, "hub")), None
    elif planned.origin == "volume" and digest:
        acquired = _stored_if_sound(context, digest)
        if acquired:
            return acquired
        origin, leased = origin_beyond_volume(clients.remote, digest, planned.file.size)
        context = replace(context, planned=replace(planned, origin=origin, leased=leased))
    hub = clients.hub.file(listing.model, listing.revision, planned.file)
    if clients.remote is None or digest is None:
        return _fetched(context, hub, "hub")
    if context.planned.leased:
        return _fetched_once(context, clients.remote, hub, digest)
    if context.planned.origin == "hub":
        return _fetched(context, hub, "hub")
    return _fetched_from_remote(context, clients.remote, hub, digest)


def fetch_remote_file(
    clients: Clients,
    model: ModelName,
    planned: PlannedFile,
    *,
    segment_bytes: int,
    progress: OnProgress | None = None,
    cancel: threading.Event | None = None,
) -> Acquired:
    """Fetch one file onto the volume from the remote store alone, unless the volume has it.

    Its sha256 is verified; the segment digests of the snapshot's manifest are not used. Raises CorruptFile where the
    remote store has other bytes, and TransferRefused where it sends none.
    """
    context = _FetchContext(clients, model, planned, segment_bytes, progress, cancel)
    digest = planned.expected.sha256
    if digest is None:
        raise AssertionError("a file of a manifest has a digest")
    acquired = _stored_if_sound(context, digest) if planned.origin == "volume" else None
    return acquired or _sent_by_remote(context, require_remote(clients), digest)


def _acquired_by_stated_digest(context: _FetchContext, digest: Sha256) -> Acquired | None:
    """A file with the sha256 that a manifest states, from the volume or the remote store; None unless its bytes are the
    git blob that the Hub lists."""
    clients, planned = context.clients, context.planned
    stated = replace(context, planned=replace(planned, expected=Expected(planned.file.size, digest)))
    try:
        acquired = _stored_if_sound(stated, digest) if clients.volume.has_blob(digest, planned.file.size) else None
        if acquired is None and clients.remote is not None and planned.origin == "s3":
            acquired = _sent_by_remote(stated, clients.remote, digest)
        if acquired is None:
            return None
        with clients.volume.reading_blob(digest) as path:
            verify_file(path, planned.expected, context.segment_bytes)
    except (BlobMissing, CorruptFile, TransferRefused) as error:
        log.warning("%s; %s is fetched from the Hub instead", error.message, planned.file.path)
        return None
    return acquired


def _fetched_once(context: _FetchContext, remote: RemoteStore, hub: Source, digest: Sha256) -> Acquired:
    """Fetch a file once for all workers that share the remote store: one from the Hub, the others wait for it."""
    clients, planned = context.clients, context.planned
    return fetch_once(
        remote,
        digest,
        planned.file,
        lease_s=clients.settings.lease_s,
        from_volume=lambda: (
            _stored_if_sound(context, digest) if clients.volume.has_blob(digest, planned.file.size) else None
        ),
        from_remote=lambda: _sent_by_remote(context, remote, digest),
        from_hub=lambda on_progress: _fetched(
            replace(context, progress=_both(on_progress, context.progress)), hub, "hub"
        ),
        share=lambda acquired, on_sent: send_blob(
            clients.volume, remote, acquired.file, context.segment_bytes, progress=on_sent
        ),
        cancel=context.cancel,
    )


def _fetched_from_remote(context: _FetchContext, remote: RemoteStore, hub: Source, digest: Sha256) -> Acquired:
    """Fetch a file from the remote store; from the Hub if the store has wrong bytes or never sends any."""
    try:
        return _sent_by_remote(context, remote, digest)
    except (CorruptFile, TransferRefused) as error:
        log.warning("%s; it is fetched from the Hub instead", error.message)
        wrong_bytes = isinstance(error, CorruptFile)
    acquired = _fetched(context, hub, "hub")
    if wrong_bytes:  # only now: until the file was fetched, a damaged object may be its last copy
        _drop(remote, digest)
    return acquired


def _sent_by_remote(context: _FetchContext, remote: RemoteStore, digest: Sha256) -> Acquired:
    """Fetch a file from the remote store alone. Raises TransferRefused also where each request was answered, and never
    with the requested bytes."""
    source = _remote_source(remote, context.planned, digest)
    try:
        return _fetched(context, source, "s3")
    except TransferInterrupted as error:
        if not error.wrong_answers:
            raise
        message = error.message
    except TransferRefused as error:
        if not remote.has_blob(digest, context.planned.file.size):
            raise
        message = error.message
    server = urlsplit(source.address().url).netloc
    raise TransferRefused(
        f"{message}; the server {server} has the file, and does not send ranges of it",
        cure="pull it from the Hub (`paddock pull`), or use an S3 server that answers range requests at presigned"
        " addresses",
    )


def _stored_if_sound(context: _FetchContext, digest: Sha256) -> Acquired | None:
    """The volume's blob if it is sound, else None. A damaged blob is quarantined."""
    volume = context.clients.volume
    try:
        acquired = _stored(context, digest)
    except CorruptFile as error:
        log.warning("%s; it is quarantined, and fetched again", error.message)
        with suppress(NotOnVolume):  # another thread or process has found it too
            volume.quarantine(digest)
        return None
    except BlobMissing as error:
        log.warning("%s", error)
        return None
    remove_leftovers(context.planned.expected, staging=volume.partial, options=Options.of(context.clients.settings))
    return acquired


def _remote_source(remote: RemoteStore, planned: PlannedFile, digest: Sha256) -> Source:
    return remote.source(SnapshotFile(path=planned.file.path, size=planned.file.size, sha256=digest))


def _both(first: OnProgress, second: OnProgress | None) -> OnProgress:
    def on_progress(progress: Progress) -> None:
        first(progress)
        if second:
            second(progress)

    return on_progress


def _fetched(context: _FetchContext, source: Source, origin: Origin) -> Acquired:
    """Fetch the file from one source, and add it to the volume's blobs."""
    volume, planned = context.clients.volume, context.planned
    digest = planned.expected.sha256
    weights = _weights_scan(planned)
    if digest is not None:
        repair.seed_from_quarantine(volume, planned.expected, segment_bytes=context.segment_bytes)
    seeded = NOTHING_SEEDED
    if weights:
        seeded = seed_from_stored(
            context.clients, context.model, source, path=planned.file.path, segment_bytes=context.segment_bytes
        )
    options = replace(
        Options.of(context.clients.settings),
        segment_bytes=context.segment_bytes,
        span_bytes=_REMOTE_SPAN_BYTES if origin == "s3" else None,
    )
    with counting_received(context.clients, origin, context.progress) as on_progress:
        staged = fetch(
            source,
            staging=volume.partial,
            options=options,
            on_progress=on_progress,
            on_block=weights.feed if weights else None,
            cancel=context.cancel,
            is_published=(lambda: volume.has_blob(digest, planned.file.size)) if digest else None,
        )
    if staged is None:
        if digest is None:
            raise AssertionError("only a file with a digest can arrive by another process")
        return _stored(context, digest)
    volume.add_blob(staged.path, staged.sha256, staged.size)
    staged.discard()
    repair.finish(volume, staged.sha256)
    file = SnapshotFile(path=planned.file.path, size=staged.size, sha256=staged.sha256, segments=staged.segments)
    return Acquired(
        file, origin, staged.transferred_bytes + seeded.received_bytes, weights.findings() if weights else ()
    )


def _weights_scan(planned: PlannedFile) -> StreamingWeightsScan | None:
    """A scan of a GGUF's weights while it is streamed; None for other files."""
    if not is_gguf(planned.file.path):
        return None
    from paddock.gguf.streaming_scan import StreamingWeightsScan  # numpy, for weights alone

    return StreamingWeightsScan(planned.file.size)


def _drop(remote: RemoteStore, digest: Sha256) -> None:
    """Remove a damaged object, so that the next push sends it again. A failure, such as of keys that may not remove it,
    is logged."""
    try:
        remote.drop_blob(digest)
    except PaddockError as error:
        log.warning("the damaged object %s stays in %s: %s", digest, remote.label, error)


def _stored(context: _FetchContext, digest: Sha256) -> Acquired:
    """Describe a blob of the volume, with its segment digests from a manifest, else by reading the whole blob. Its age
    is reset, so that it is not collected before its snapshot is published. Raises CorruptFile, BlobMissing.

    Of a blob that a manifest lists, and that was not changed since it was last verified, only the first segment is
    read, which finds a damaged header. Other damage further on is found by `paddock verify`, the validation and a copy
    to the remote store. A GGUF with findings on its weights is read again, since a manifest has the rule of a finding
    and not its message.
    """
    volume, planned = context.clients.volume, context.planned
    volume.renew_blob(digest)
    with volume.reading_blob(digest) as path:
        since_ns, before = time.time_ns(), path.lstat()
        is_known = before.st_size < RECORDED_BYTES or volume.file_states.is_known(digest, before)
    for manifest, file in repair.manifests_with(volume, digest):
        if is_known and manifest.segment_bytes == context.segment_bytes and not _has_weak_weights(manifest, file):
            with volume.reading_blob(digest) as path:
                repair.check_first_segment(path, file, segment_bytes=context.segment_bytes)
            return Acquired(replace(file, path=planned.file.path), "volume", 0)
    weights = _weights_scan(planned)
    on_block = weights.feed if weights else None
    with volume.reading_blob(digest) as path:
        sha256, segments = verify_file(path, planned.expected, context.segment_bytes, on_block=on_block)
        after = path.lstat()
    if FileState.of(after) == FileState.of(before):
        volume.file_states.remember(digest, after, since_ns=since_ns)
    file = SnapshotFile(path=planned.file.path, size=planned.file.size, sha256=sha256, segments=segments)
    return Acquired(file, "volume", 0, weights.findings() if weights else ())


def _has_weak_weights(manifest: Manifest, file: SnapshotFile) -> bool:
    return is_gguf(file.path) and any(finding.rule.startswith("gguf.weights.") for finding in manifest.findings)
