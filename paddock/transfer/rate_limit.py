"""Limit the bandwidth of a transfer, over all of its connections together."""

from __future__ import annotations

import threading
import time

_READ_BYTES = 512 * 1024
_MAX_LIMITED_READ_BYTES = 256 * 1024
_BURST_S = 0.1


class RateLimit:
    """A token bucket, kept as a timestamp: each byte moves the time at which the next one is due.

    `bytes_per_s` None means no limit. `stopped` ends a wait early.
    """

    def __init__(self, bytes_per_s: int | None, *, connections: int, stopped: threading.Event) -> None:
        self._rate = bytes_per_s
        self._connections = connections
        self._stopped = stopped
        self._lock = threading.Lock()
        self._due = 0.0

    @property
    def read_bytes(self) -> int:
        """How many bytes to read at once, so that all connections together stay within one burst."""
        if self._rate is None:
            return _READ_BYTES
        return max(1024, min(_MAX_LIMITED_READ_BYTES, int(self._rate * _BURST_S / self._connections)))

    def consume(self, count: int) -> None:
        """Wait until `count` received bytes are within the limit, or until the transfer is stopped."""
        if self._rate is None:
            return
        with self._lock:
            now = time.monotonic()
            self._due = max(self._due, now - _BURST_S) + count / self._rate
            wait_s = self._due - now
        if wait_s > 0:
            self._stopped.wait(wait_s)
