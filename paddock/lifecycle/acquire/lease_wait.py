"""Let one worker of a fleet fetch a blob from the Hub under a lease, while the others wait for it.

The worker that takes the lease (`RemoteStore.take_lease`) fetches the blob onto its own volume, and sends it to the
remote store. The others wait until the blob is in the remote store and fetch it from there, or find it on their volume,
where another process on the same machine was faster.

| failure | outcome |
|---|---|
| the owner stops renewing its lease, or renews it without progress | a waiting worker takes the lease over |
| whatever else the lease says, since others can write to the bucket | the wait has an end (`longest_wait_s`) |
| nobody gets a lease: the keys may not write it, or it is not stored | each worker fetches, and sends the blob |
| the store has the blob, and never sends its bytes | each worker fetches from the Hub for itself |
| the fetched blob cannot be sent to the store | a warning; this worker has the blob |
| the store stops answering | a transient error: else a whole fleet would turn to the Hub at once |
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

from paddock.errors import (
    CorruptFile,
    StoreRefused,
    StoreUnavailable,
    TransferInterrupted,
    TransferRefused,
)
from paddock.model.acquired import Acquired
from paddock.model.artifact import RepositoryFile
from paddock.model.names import Sha256
from paddock.store.protocol import DownloadLease, HeldLease, RemoteStore
from paddock.transfer.progress import OnProgress

_POLL_S = 1.0
_UNCHANGED_LEASES = 3
"""A lease that stays as it is for so many lease durations has expired, whatever the service's clock says."""
_MIN_UNCHANGED_S = 5.0
_MIN_BYTES_PER_S = 256 * 1024
"""The rate at which a lease is waited for in all, for the download and the upload of the file."""
NO_PROGRESS_LEASES = 20
"""For so many lease durations, the others wait for an owner that renews its lease without a byte of progress."""

MAX_REFUSALS = 5
"""After so many refused leases in a row that nobody holds, the blob is fetched without one: the store may answer writes
that it does not keep."""

log = logging.getLogger(__name__)


def longest_wait_s(size: int, no_progress_s: float) -> float:
    """The longest wait for leases of a file of `size` bytes, whoever holds them, in seconds."""
    return no_progress_s + 2 * size / _MIN_BYTES_PER_S


def fetch_once(
    remote: RemoteStore,
    digest: Sha256,
    file: RepositoryFile,
    *,
    lease_s: float,
    from_volume: Callable[[], Acquired | None],
    from_remote: Callable[[], Acquired],
    from_hub: Callable[[OnProgress], Acquired],
    share: Callable[[Acquired, Callable[[int], None]], int],
    no_progress_leases: float = NO_PROGRESS_LEASES,
    cancel: threading.Event | None = None,
) -> Acquired:
    """Fetch a blob that other workers may be fetching, or may have sent to the remote store.

    `from_volume` returns the blob if it is on this volume, else None; `from_hub` is given a progress callback; `share`
    sends the fetched blob to the remote store, is given a callback for the bytes that were sent, and returns their
    number. Raises what these raise, StoreUnavailable, and TransferInterrupted when `cancel` is set.
    """
    wait = _LeaseWait(
        remote,
        digest,
        file,
        lease_s,
        no_progress_leases * lease_s,
        from_volume,
        from_remote,
        cancel or threading.Event(),
    )
    lease: DownloadLease | None = None
    try:
        outcome = wait.run()
        if isinstance(outcome, Acquired):
            return outcome
        lease = outcome
    except StoreRefused as error:
        log.warning("%s; %s is fetched from the Hub without a download lease", error.message, file.path)
    with lease.held(lease_s=lease_s) if lease else nullcontext():
        acquired = from_hub(lambda progress: lease.set_progress(progress.done_bytes) if lease else None)
        wait.replace_or_share(lease, lambda on_sent: share(acquired, on_sent))
    return acquired


@dataclass(slots=True)
class _LeaseWait:
    """The wait for one blob. It ends with the blob, or with the lease to fetch it; `no_progress_s` is the longest wait
    for an owner that makes no progress."""

    remote: RemoteStore
    digest: Sha256
    file: RepositoryFile
    lease_s: float
    no_progress_s: float
    from_volume: Callable[[], Acquired | None]
    from_remote: Callable[[], Acquired]
    cancel: threading.Event
    _refused_tag: str | None = None
    """The tag of an object that has wrong bytes, or that the store refuses to send."""
    _is_damaged: bool = False
    _is_never_sent: bool = False
    _began: float = field(default_factory=time.monotonic)
    _owner: str = ""
    _done_bytes: int = -1
    """The progress of the last owner, in bytes."""
    _since: float = 0.0
    _tag: str = ""
    _tag_since: float = 0.0

    def run(self) -> Acquired | DownloadLease | None:
        """The blob, or the lease to fetch it; None when a lease is no use, since the store gives it to nobody or never
        sends the blob."""
        refusals = 0
        while True:
            acquired = self.from_volume() or self._fetch_from_remote()
            if acquired:
                return acquired
            if self._is_never_sent and self.remote.blob_tag(self.digest, self.file.size) == self._refused_tag:
                return None  # and not another worker's replacement of a damaged object
            lease = self.remote.take_lease(self.digest, lease_s=self.lease_s)
            if isinstance(lease, HeldLease) and (lease.is_expired or self._is_over(lease)):
                log.warning(
                    "the download of %s is taken over from %s, which makes no progress", self.file.path, lease.owner
                )
                lease = self.remote.take_over_lease(self.digest, lease)
            if lease is not None and not isinstance(lease, HeldLease):
                # The last owner may have sent the blob after we looked for it.
                if self._remote_tag() is None:
                    return lease
                lease.release()
                continue
            # Another worker that was faster holds it in the next round; a store whose conditional writes fail never
            # shows a holder.
            refusals = 0 if lease is not None else refusals + 1
            if refusals == MAX_REFUSALS:
                log.warning(
                    "%s gives nobody the download lease of %s, though nobody holds it: it is fetched from the Hub"
                    " without one",
                    self.remote.label,
                    self.file.path,
                )
                return None
            self._pause()

    def replace_or_share(self, lease: DownloadLease | None, share: Callable[[Callable[[int], None]], int]) -> None:
        """Send the fetched blob to the remote store, replacing a damaged object. A failure is logged: then the other
        workers fetch from the Hub themselves."""
        sent_bytes = 0

        def on_sent(part_bytes: int) -> None:
            nonlocal sent_bytes
            sent_bytes += part_bytes
            if lease:
                lease.set_progress(self.file.size + sent_bytes)

        try:
            if self._is_damaged:
                self.remote.drop_blob(self.digest)
            share(on_sent)
        except (StoreUnavailable, StoreRefused) as error:
            log.warning("%s; %s is not shared with the fleet", error.message, self.file.path)

    def _remote_tag(self) -> str | None:
        """The tag of the object in the remote store; None where there is none, or where it was refused."""
        tag = self.remote.blob_tag(self.digest, self.file.size)
        return None if tag == self._refused_tag else tag

    def _fetch_from_remote(self) -> Acquired | None:
        tag = self._remote_tag()
        if tag is None:
            return None
        try:
            return self.from_remote()
        except (CorruptFile, TransferRefused) as error:
            log.warning("%s; it is fetched from the Hub instead", error.message)
            self._refused_tag = tag
            self._is_damaged = isinstance(error, CorruptFile)
            self._is_never_sent = not self._is_damaged
            return None

    def _is_over(self, held: HeldLease) -> bool:
        """Whether a lease that the service calls valid is not waited for any longer: it is not renewed, its owner makes
        no progress, or the wait took too long. Progress is more bytes than before, of those that there are."""
        now = time.monotonic()
        if held.owner != self._owner:
            log.warning("waiting for %s, which is being fetched by %s", self.file.path, held.owner)
            self._owner, self._done_bytes, self._since = held.owner, -1, now
        if self._done_bytes < held.done_bytes <= 2 * self.file.size:
            self._done_bytes, self._since = held.done_bytes, now
        if held.tag != self._tag:
            self._tag, self._tag_since = held.tag, now
        return (
            now - self._since > self.no_progress_s
            or now - self._tag_since > max(_UNCHANGED_LEASES * self.lease_s, _MIN_UNCHANGED_S)
            or now - self._began > longest_wait_s(self.file.size, self.no_progress_s)
        )

    def _pause(self) -> None:
        # Jitter, so that workers that started together do not ask together.
        if self.cancel.wait(_POLL_S * random.uniform(0.5, 1)):  # noqa: S311 (no secret)
            raise TransferInterrupted.cancelled(f"{self.file.path} was cancelled while another worker fetched it")
