"""Wait for the download lease of a blob: of all workers that share a remote store, one asks the Hub.

The worker that takes the lease (`RemoteStore.take_lease`) fetches the blob onto its own volume, and sends it to the
remote store. The others wait until it is there and take it from there, or from their own volume where another process
of theirs was faster. No worker waits for ever: an owner that does not renew its lease loses it to one of those who
wait, and so does one that renews it and makes no progress. Where the keys may not write to the store, each worker
fetches for itself; where the fetched blob cannot be sent, this worker has it all the same. A store that stops answering
ends the wait with a transient error, or a whole fleet would turn to the Hub at once.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

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
NO_PROGRESS_LEASES = 20
"""An owner that renews its lease is waited for through so many leases without a byte of progress."""

log = logging.getLogger(__name__)


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
    """Fetch a blob that the remote store may have by now, and that other workers may be fetching.

    `from_volume` returns the blob if it is on this volume by now, `from_hub` is given a callback for its progress, and
    `share` sends what it fetched to the remote store. Raises what these raise, StoreUnavailable, and
    TransferInterrupted when `cancel` is set.
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
        log.warning("%s; %s is fetched from the Hub, for this worker alone", error.message, file.path)
    with lease.held(lease_s=lease_s) if lease else nullcontext():
        acquired = from_hub(lambda progress: lease.tell(progress.done_bytes) if lease else None)
        if lease:
            wait.replace_or_share(lease, lambda on_sent: share(acquired, on_sent))
    return acquired


@dataclass(slots=True)
class _LeaseWait:
    """The wait for one blob: it ends with the blob, or with the lease to fetch it. `no_progress_s` is how long an owner
    without progress is waited for."""

    remote: RemoteStore
    digest: Sha256
    file: RepositoryFile
    lease_s: float
    no_progress_s: float
    from_volume: Callable[[], Acquired | None]
    from_remote: Callable[[], Acquired]
    cancel: threading.Event
    _refused_tag: str | None = None
    """The tag of an object with wrong bytes, or that the store does not give out."""
    _is_damaged: bool = False
    _seen: tuple[str, int] | None = None
    """The owner that was seen last, and its progress then."""
    _since: float = 0.0

    def run(self) -> Acquired | DownloadLease:
        while True:
            there = self.from_volume() or self._arrived()
            if there:
                return there
            lease = self.remote.take_lease(self.digest, lease_s=self.lease_s)
            if isinstance(lease, HeldLease) and (lease.is_expired or self._makes_no_progress(lease)):
                log.warning("%s is taken over from %s, which does not go on", self.file.path, lease.owner)
                lease = self.remote.take_over_lease(self.digest, lease)
            if isinstance(lease, HeldLease):
                self._pause()
            elif lease is not None:
                # The owner before may have ended between our look at the store and this.
                if self._remote_tag() is None:
                    return lease
                lease.release()

    def replace_or_share(self, lease: DownloadLease, share: Callable[[Callable[[int], None]], int]) -> None:
        """Send what came to the remote store, in the place of wrong bytes. Where that fails, other workers have to ask
        the Hub themselves."""
        sent_bytes = 0

        def on_sent(part_bytes: int) -> None:
            nonlocal sent_bytes
            sent_bytes += part_bytes
            lease.tell(self.file.size + sent_bytes)

        try:
            if self._is_damaged:
                self.remote.drop_blob(self.digest)
            share(on_sent)
        except (StoreUnavailable, StoreRefused) as error:
            log.warning("%s; %s is not shared with the fleet", error.message, self.file.path)

    def _remote_tag(self) -> str | None:
        """The tag of the object in the remote store, where there is one that was not refused."""
        tag = self.remote.blob_tag(self.digest, self.file.size)
        return None if tag == self._refused_tag else tag

    def _arrived(self) -> Acquired | None:
        tag = self._remote_tag()
        if tag is None:
            return None
        try:
            return self.from_remote()
        except (CorruptFile, TransferRefused) as error:
            log.warning("%s; it is fetched from the Hub instead", error.message)
            self._refused_tag, self._is_damaged = tag, isinstance(error, CorruptFile)
            return None

    def _makes_no_progress(self, held: HeldLease) -> bool:
        state = (held.owner, held.done_bytes)
        if self._seen is None or self._seen[0] != held.owner:
            log.warning("waiting for %s, which is being fetched by %s", self.file.path, held.owner)
        if state != self._seen:
            self._seen, self._since = state, time.monotonic()
        return time.monotonic() - self._since > self.no_progress_s

    def _pause(self) -> None:
        # Jitter, so that a fleet that was started at once does not ask at once.
        if self.cancel.wait(_POLL_S * random.uniform(0.5, 1)):  # noqa: S311 (no secret)
            raise TransferInterrupted(f"{self.file.path} was cancelled while another worker fetched it")
