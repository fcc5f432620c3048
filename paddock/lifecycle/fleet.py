"""One download for a fleet: of all workers that lack the same blob and have the same S3, one asks the Hub.

It takes the *turn* (`paddock.store.s3.turns`), fetches the blob onto its own volume, and sends it to S3. The others
wait until it is there and take it from S3, or from their own volume where another process of theirs was faster. Nobody
waits for ever: an owner that shows no sign of life loses its turn to one of those who wait, and so does one that lives
and gets nowhere. Where the keys may not write to S3, each worker fetches for itself; where what came cannot be sent
there, this worker has it all the same. An S3 that does not answer any more ends the wait with an error that is worth
another try, or a whole fleet would turn to the Hub at once.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

from paddock.errors import (
    CorruptFile,
    StoreRefused,
    StoreUnavailable,
    TransferInterrupted,
    TransferRefused,
)
from paddock.model.artifact import RepositoryFile
from paddock.model.names import Sha256
from paddock.store.s3 import S3Store
from paddock.store.s3.turns import Others, Turn
from paddock.transfer.progress import Moved

if TYPE_CHECKING:
    from paddock.lifecycle.delivery import Acquired

WORTH_A_TURN_BYTES = 1024 * 1024
"""A smaller file costs the Hub less than the turn costs S3."""

_POLL_S = 1.0
_PATIENCE_LEASES = 20
"""An owner that lives is waited for through so many leases without a byte more than before."""

log = logging.getLogger(__name__)


def fetch_once(
    s3: S3Store,
    digest: Sha256,
    file: RepositoryFile,
    *,
    lease_s: float,
    nearer: Callable[[], Acquired | None],
    from_s3: Callable[[], Acquired],
    from_hub: Callable[[Moved], Acquired],
    share: Callable[[Acquired, Callable[[int], None]], int],
    cancel: threading.Event | None = None,
) -> Acquired:
    """Bring a blob that S3 may have by now, and that others may be fetching.

    `nearer` says whether this volume has it meanwhile, `from_hub` is given whom to tell how far it is, and `share`
    sends to S3 what came. Raises what these raise, StoreUnavailable, and TransferInterrupted when `cancel` is set.
    """
    errand = _Errand(s3, digest, file, lease_s=lease_s, nearer=nearer, from_s3=from_s3, cancel=cancel)
    turn: Turn | None = None
    try:
        got = errand.run()
        if not isinstance(got, Turn):
            return got
        turn = got
    except StoreRefused as error:
        log.warning("%s; %s is fetched from the Hub, for this worker alone", error.message, file.path)
    with turn.held(lease_s=lease_s) if turn else nullcontext():
        acquired = from_hub(lambda progress: turn.tell(progress.done_bytes) if turn else None)
        if turn:
            errand.replace_or_share(turn, lambda sent: share(acquired, sent))
    return acquired


class _Errand:
    """The wait for one blob: ends with the blob, or with our turn to fetch it."""

    def __init__(
        self,
        s3: S3Store,
        digest: Sha256,
        file: RepositoryFile,
        *,
        lease_s: float,
        nearer: Callable[[], Acquired | None],
        from_s3: Callable[[], Acquired],
        cancel: threading.Event | None,
    ) -> None:
        self._s3 = s3
        self._digest = digest
        self._file = file
        self._lease_s = lease_s
        self._nearer = nearer
        self._from_s3 = from_s3
        self._cancel = cancel or threading.Event()
        self._refused: str | None = None  # the tag of an object that is not what its name says, or is not given out
        self._is_damaged = False
        self._seen: tuple[str, int] | None = None  # whose turn it was, and how far
        self._since = time.monotonic()

    def run(self) -> Acquired | Turn:
        while True:
            there = self._nearer() or self._arrived()
            if there:
                return there
            turn = self._s3.turns.take(self._digest, lease_s=self._lease_s)
            if isinstance(turn, Others) and (turn.is_dead or self._gets_nowhere(turn)):
                log.warning("%s is taken over from %s, which is silent", self._file.path, turn.by)
                turn = self._s3.turns.take_over(self._digest, turn)
            if isinstance(turn, Turn):
                # The owner before may have ended between our look at S3 and this.
                if self._in_s3() is None:
                    return turn
                turn.give_back()
            elif turn is not None:
                self._wait()

    def replace_or_share(self, turn: Turn, share: Callable[[Callable[[int], None]], int]) -> None:
        """Send what came to S3, in the place of what was wrong there. Where that fails, the fleet has to ask again."""
        sent_bytes = 0

        def sent(part_bytes: int) -> None:
            nonlocal sent_bytes
            sent_bytes += part_bytes
            turn.tell(self._file.size + sent_bytes)

        try:
            if self._is_damaged:
                self._s3.drop_blob(self._digest)
            share(sent)
        except (StoreUnavailable, StoreRefused) as error:
            log.warning("%s; %s is not shared with the fleet", error.message, self._file.path)

    def _in_s3(self) -> str | None:
        """The tag of the object, where there is one that was not found wanting."""
        tag = self._s3.blob_tag(self._digest, self._file.size)
        return None if tag == self._refused else tag

    def _arrived(self) -> Acquired | None:
        tag = self._in_s3()
        if tag is None:
            return None
        try:
            return self._from_s3()
        except (CorruptFile, TransferRefused) as error:
            log.warning("%s; it is fetched from the Hub instead", error.message)
            self._refused, self._is_damaged = tag, isinstance(error, CorruptFile)
            return None

    def _gets_nowhere(self, owner: Others) -> bool:
        seen = (owner.by, owner.done_bytes)
        if self._seen is None or self._seen[0] != owner.by:
            log.warning("%s is being fetched by %s: it is waited for", self._file.path, owner.by)
        if seen != self._seen:
            self._seen, self._since = seen, time.monotonic()
        return time.monotonic() - self._since > _PATIENCE_LEASES * self._lease_s

    def _wait(self) -> None:
        # Jitter, so that a fleet that was started at once does not ask at once.
        if self._cancel.wait(_POLL_S * random.uniform(0.5, 1)):  # noqa: S311 (no secret)
            raise TransferInterrupted(f"{self._file.path} was cancelled while another worker fetched it")
