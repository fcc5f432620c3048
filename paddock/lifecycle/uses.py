"""Record the uses of snapshots on the volume, and send what this worker recorded to the remote store.

Recording never fails the use itself: where the volume cannot be written, or the remote store does not answer, that is
logged. `paddock.lifecycle.upkeep.usage` sums up what was recorded.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from paddock.errors import PaddockError
from paddock.lifecycle.clients import Clients
from paddock.model.reference import SnapshotId
from paddock.store.protocol import RemoteStore
from paddock.store.usage import MAX_SHARED_ROWS, Usage, UseKind, write_rows

SHARE_S = 5.0
"""How long a store may take to store the usage, so that a server that stops is not held up."""
SHARING = "share-usage"
"""The name of the thread that waits for the store."""

_LOG = logging.getLogger(__name__)
_WRITES = 3


def record_use(clients: Clients, id: SnapshotId, kind: UseKind, usage: Usage) -> None:
    """Record a use that ended now. Raises nothing."""
    try:
        with clients.volume.recording():
            clients.volume.usage.add(id, kind, usage)
    except PaddockError as error:
        _LOG.warning("the usage of %s was not recorded: %s", id, error.message)


@contextmanager
def timed_use(clients: Clients, id: SnapshotId, kind: UseKind) -> Iterator[None]:
    """Record the block as one use, also if it raises."""
    began = time.monotonic()
    try:
        yield
    finally:
        record_use(clients, id, kind, Usage(uses=1, seconds=time.monotonic() - began))


def share_usage(clients: Clients, *, wait_s: float = SHARE_S) -> None:
    """Send what this worker recorded to the remote store, where one is set. Raises nothing, and waits `wait_s` at most:
    what a store that does not answer lacks is sent the next time."""
    remote = clients.remote
    if remote is None:
        return
    sending = threading.Thread(target=_share, args=(clients, remote), name=SHARING, daemon=True)
    sending.start()
    sending.join(wait_s)
    if sending.is_alive():
        _LOG.warning("the usage was not sent to %s: it has not answered for %g s", remote.label, wait_s)


def _share(clients: Clients, remote: RemoteStore) -> None:
    records = clients.volume.usage
    try:
        for _ in range(_WRITES):
            content = _own_rows(clients)
            if not content:
                return
            remote.write_usage(records.worker, clients.volume.identity.name(), content)
            if _own_rows(clients) == content:  # else another process may have sent more, which was replaced now
                return
    except PaddockError as error:
        _LOG.warning("the usage was not sent to %s: %s", remote.label, error.message)


def _own_rows(clients: Clients) -> bytes:
    records = clients.volume.usage
    own = [row for row in records.rows() if row.worker == records.worker]
    return write_rows(sorted(own, key=lambda row: row.last)[-MAX_SHARED_ROWS:])
