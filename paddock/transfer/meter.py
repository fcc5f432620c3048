"""Count the bytes that a transfer receives, and compute its current rate."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

_RATE_WINDOW_S = 3.0
_MIN_RATE_S = 0.5
"""The first packets of several connections arrive at once, and would give far too high a rate."""


class Meter:
    """Bytes received over the network, bytes of them that were useful, and the rate of the useful ones.

    The rate is that of the last `window_s` seconds. It is measured from the first useful bytes on: the time until the
    server responds says nothing about the bandwidth. One meter is shared by all connections of a transfer.
    """

    def __init__(self, *, window_s: float = _RATE_WINDOW_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._window_s = window_s
        self._clock = clock
        self._lock = threading.Lock()
        self._samples: deque[tuple[float, int]] = deque()
        """(time, useful bytes until then); empty until the first ones arrived."""
        self.transferred_bytes = 0
        self.useful_bytes = 0

    def count(self, received: int, useful: int) -> None:
        with self._lock:
            self.transferred_bytes += received
            self.useful_bytes += useful
            if useful and not self._samples:
                self._samples.append((self._clock(), self.useful_bytes))

    def restart(self) -> None:
        """Measure the rate anew, after something other than the network held the transfer up."""
        with self._lock:
            self._samples.clear()

    def rate_bytes_per_s(self) -> float:
        """The current rate; 0.0 in the first half second. For one caller, a few times a second."""
        with self._lock:
            if not self._samples:
                return 0.0
            now, total = self._clock(), self.useful_bytes
            self._samples.append((now, total))
            while len(self._samples) > 2 and self._samples[1][0] < now - self._window_s:
                self._samples.popleft()
            since, before = self._samples[0]
            return (total - before) / (now - since) if now - since >= _MIN_RATE_S else 0.0
