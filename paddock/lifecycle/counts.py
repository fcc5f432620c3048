"""Count on the volume what this worker does, for `paddock metrics`: bytes received, failures, evictions.

Counting never fails what is counted: where the volume cannot be written, that is logged. Where there is no volume yet,
nothing is counted, since a count does not make one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from paddock.errors import PaddockError, TransferInterrupted
from paddock.lifecycle.clients import Clients
from paddock.model.acquired import Origin
from paddock.store.volume.counters import Counts, labels_of
from paddock.transfer.progress import OnProgress, Progress

_LOG = logging.getLogger(__name__)


@contextmanager
def counting_failures(clients: Clients) -> Iterator[None]:
    """Count an error that the block raises, by its class. One that passes through several blocks is counted once,
    and a transfer that was cancelled is no failure."""
    try:
        yield
    except PaddockError as error:
        was_cancelled = isinstance(error, TransferInterrupted) and error.was_cancelled
        if not error.is_counted and not was_cancelled:
            error.is_counted = True
            known = labels_of("failures")
            name = next((one.__name__ for one in type(error).__mro__ if one.__name__ in known), None)
            if name is not None:
                _add(clients, {"failures": {name: 1}})
        raise


def count_evicted(clients: Clients, store: str, freed_bytes: Sequence[int]) -> None:
    """Count snapshots that were evicted from a store, `volume` or `s3`, by the bytes that each of them freed."""
    if freed_bytes:
        _add(clients, {"evicted_snapshots": {store: len(freed_bytes)}, "evicted_bytes": {store: sum(freed_bytes)}})


@contextmanager
def counting_received(clients: Clients, origin: Origin, on_progress: OnProgress | None = None) -> Iterator[OnProgress]:
    """Count the bytes of a file that the block receives from an origin, and its seconds, also if it raises. Yields the
    listener for the file's progress, which calls `on_progress`."""
    began, received_bytes = time.monotonic(), 0

    def listen(progress: Progress) -> None:
        nonlocal received_bytes
        received_bytes = progress.transferred_bytes
        if on_progress is not None:
            on_progress(progress)

    try:
        yield listen
    finally:
        if received_bytes:
            seconds = round(time.monotonic() - began, 3)
            _add(clients, {"received_bytes": {origin: received_bytes}, "received_seconds": {origin: seconds}})


def _add(clients: Clients, counts: Counts) -> None:
    volume = clients.volume
    try:
        if volume.exists:
            with volume.recording():
                volume.counters.add(counts)
    except (PaddockError, OSError) as error:
        _LOG.warning("nothing is counted for `paddock metrics`: %s", error)
