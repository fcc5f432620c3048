"""Decide whether a failed request is retried, and after which pause."""

from __future__ import annotations

import random
import threading
import time

from paddock.errors import TransferInterrupted
from paddock.transfer.meter import Meter
from paddock.transfer.response import RetryableResponseError

_MAX_FAILURES = 5
_FIRST_PAUSE_S = 0.25
_MAX_PAUSE_S = 10.0
_MAX_RETRY_AFTER_S = 60.0
_PROGRESS_BYTES = 64 * 1024


class RetryBudget:
    """Five failures in a row, with exponential backoff, shared by all connections of a transfer.

    Failures during the pause after the last one count as the same incident: a server that restarts breaks eight
    connections at once, and has failed once. At least 64 KiB of useful bytes since the last incident reset the count.
    """

    def __init__(self, label: str, meter: Meter, *, cure: str) -> None:
        self._label = label
        self._meter = meter
        self._cure = cure
        self._lock = threading.Lock()
        self._failures = 0
        self._only_wrong = True
        self._quiet_until = 0.0
        self._useful_bytes_before = 0

    def spend(self, failure: RetryableResponseError) -> float:
        """Record a failure and return the seconds to wait before the next attempt.

        Raises TransferInterrupted if the budget is spent, or the server asks for a wait of more than 60 s.
        """
        with self._lock:
            now = time.monotonic()
            if now >= self._quiet_until:
                if self._meter.useful_bytes - self._useful_bytes_before >= _PROGRESS_BYTES:
                    self._failures, self._only_wrong = 0, True
                self._useful_bytes_before = self._meter.useful_bytes
                self._failures += 1
                # Jitter, so that a fleet that was disconnected at once does not reconnect at once.
                pause = min(_MAX_PAUSE_S, _FIRST_PAUSE_S * 2 ** (self._failures - 1)) * random.uniform(0.5, 1)  # noqa: S311 (no secret)
                self._quiet_until = now + pause
            self._only_wrong = self._only_wrong and failure.wrong
            retry_after_s = failure.retry_after_s or 0.0
            if self._failures >= _MAX_FAILURES or retry_after_s > _MAX_RETRY_AFTER_S:
                error = TransferInterrupted(
                    f"{self._label} was interrupted after {self._failures} tries without progress: {failure}",
                    cure=self._cure,
                    retry_after_s=failure.retry_after_s,
                )
                error.wrong_answers = self._only_wrong and self._failures >= _MAX_FAILURES
                raise error
            self._quiet_until = max(self._quiet_until, now + retry_after_s)
            return self._quiet_until - now
