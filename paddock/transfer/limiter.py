"""How fast bytes may come (`RateLimit`), how many have (`Meter`), and how often a try may fail (`Patience`).

One of each is shared by all the connections of a transfer, so that a bound holds over all of them.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable

from paddock.errors import TransferInterrupted
from paddock.transfer.answer import TryAgain

_READ_BYTES = 256 * 1024
_BURST_S = 0.1
_RATE_WINDOW_S = 3.0
_LEAST_RATE_S = 0.5
"""The first packets of several connections come at once, and tell nothing of a rate."""
_TRIES = 5
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 10.0
_LONGEST_RETRY_AFTER_S = 60.0
_PROGRESS_BYTES = 64 * 1024


class RateLimit:
    """A token bucket in its form as a clock: each byte moves the time at which the next one is due."""

    def __init__(self, bytes_per_s: int | None, *, connections: int, stopped: threading.Event) -> None:
        self._rate = bytes_per_s
        self._connections = connections
        self._stopped = stopped
        self._lock = threading.Lock()
        self._due = 0.0

    @property
    def read_bytes(self) -> int:
        """How much to read at once, so that all connections together stay within a burst."""
        if self._rate is None:
            return _READ_BYTES
        return max(1024, min(_READ_BYTES, int(self._rate * _BURST_S / self._connections)))

    def take(self, count: int) -> None:
        """Wait until `count` bytes that came are paid for, or until the transfer is stopped."""
        if self._rate is None:
            return
        with self._lock:
            now = time.monotonic()
            self._due = max(self._due, now - _BURST_S) + count / self._rate
            wait_s = self._due - now
        if wait_s > 0:
            self._stopped.wait(wait_s)


class Meter:
    """Bytes that came over the network, how many of them were wanted, and how fast the wanted ones came lately.

    The rate is that of the last `window_s` seconds, and begins with the first wanted bytes: the time until a server
    answers is no slowness of the line.
    """

    def __init__(self, *, window_s: float = _RATE_WINDOW_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._window_s = window_s
        self._clock = clock
        self._lock = threading.Lock()
        self._samples: deque[tuple[float, int]] = deque()
        """(time, wanted bytes until then); empty until the first ones came."""
        self.transferred_bytes = 0
        self.wanted_bytes = 0

    def count(self, came: int, wanted: int) -> None:
        with self._lock:
            self.transferred_bytes += came
            self.wanted_bytes += wanted
            if wanted and not self._samples:
                self._samples.append((self._clock(), self.wanted_bytes))

    def restart(self) -> None:
        """Forget the rate so far: what held the bytes up is over."""
        with self._lock:
            self._samples.clear()

    def rate_bytes_per_s(self) -> float:
        """0.0 while it cannot be told yet. For one caller, a few times a second."""
        with self._lock:
            if not self._samples:
                return 0.0
            now, total = self._clock(), self.wanted_bytes
            self._samples.append((now, total))
            while len(self._samples) > 2 and self._samples[1][0] < now - self._window_s:
                self._samples.popleft()
            since, before = self._samples[0]
            return (total - before) / (now - since) if now - since >= _LEAST_RATE_S else 0.0


class RetryBudget:
    """Whether another try is worth it, and after which pause.

    Failures that come while the pause of the last one lasts are one incident: a server that restarts breaks eight
    connections at once and has failed once. Wanted bytes that came since the last incident start the count anew; less
    than 64 KiB is no progress.
    """

    def __init__(self, label: str, meter: Meter, *, cure: str) -> None:
        self._label = label
        self._meter = meter
        self._cure = cure
        self._lock = threading.Lock()
        self._failures = 0
        self._quiet_until = 0.0
        self._wanted_before = 0

    def failed(self, failure: TryAgain) -> float:
        """The seconds to wait before the next try. Raises TransferInterrupted when there should be none."""
        with self._lock:
            now = time.monotonic()
            if now >= self._quiet_until:
                if self._meter.wanted_bytes - self._wanted_before >= _PROGRESS_BYTES:
                    self._failures = 0
                self._wanted_before = self._meter.wanted_bytes
                self._failures += 1
                # Jitter, so that a fleet that was cut off at once does not come back at once.
                pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (self._failures - 1)) * random.uniform(0.5, 1)  # noqa: S311 (no secret)
                self._quiet_until = now + pause
            asked = failure.retry_after_s or 0.0
            if self._failures >= _TRIES or asked > _LONGEST_RETRY_AFTER_S:
                raise TransferInterrupted(
                    f"{self._label} was interrupted after {self._failures} tries without progress: {failure}",
                    cure=self._cure,
                    retry_after_s=failure.retry_after_s,
                )
            self._quiet_until = max(self._quiet_until, now + asked)
            return self._quiet_until - now
