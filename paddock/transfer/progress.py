"""Progress of a download: of one file (`Progress`), and of all files of an acquisition together (`TotalProgress`).

Done bytes, rate and time left all count the bytes that are in the file. Bytes of an earlier transfer are done from the
start, and do not count for the rate. Verification follows the received bytes closely, and mostly takes no extra time;
if it does (a large resumed part, or a file that another backend fetched), it is added to the time left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from paddock.model.acquired import Acquired
from paddock.transfer.meter import Meter

_TOTAL_WINDOW_S = 10.0
_MIN_RATE_BYTES = 256 * 1024
_RATE_UNKNOWN_S = 1.0
"""How long after its first bytes a file may have no rate yet."""
_DEFAULT_VERIFY_BYTES_PER_S = 500e6


@dataclass(frozen=True, slots=True)
class Progress:
    """`done_bytes` of `total_bytes` are in the file; the last one is not counted until the file is verified.

    `resumed_bytes` of them are from an earlier transfer. `transferred_bytes` were received over the network, which
    includes bytes that had to be fetched twice. `rate_bytes_per_s` is how fast `done_bytes` grows, 0 while unknown.
    `verify_s` is the time to verify the bytes in the file that are not verified yet; None if unknown, since parts are
    fetched again.
    """

    label: str
    done_bytes: int
    total_bytes: int
    transferred_bytes: int
    resumed_bytes: int
    rate_bytes_per_s: float
    verify_s: float | None = 0.0

    @property
    def fetched_bytes(self) -> int:
        """How many of `done_bytes` this transfer fetched."""
        return max(0, self.done_bytes - self.resumed_bytes)

    @property
    def is_verified(self) -> bool:
        return self.done_bytes == self.total_bytes

    @property
    def is_verifying(self) -> bool:
        """Whether all bytes are in the file, and only their verification is left."""
        return self.done_bytes == self.total_bytes - 1

    @property
    def left_s(self) -> float | None:
        """Time left at the current rate; None while that is unknown."""
        return _left_s([self], self.total_bytes - self.done_bytes, self.rate_bytes_per_s)


OnProgress = Callable[[Progress], None]


class ProgressListener(Protocol):
    """Callbacks for the progress of an acquisition, called in its thread."""

    def on_start(self, total_bytes: int) -> None:
        """Called once, before the first file, with the bytes that will be fetched for all files together."""
        ...

    def on_progress(self, progress: Progress) -> None:
        """Called a few times a second with the progress of one file."""
        ...

    def on_finish(self, acquired: Sequence[Acquired]) -> None:
        """Called once, when all files are on the volume."""
        ...


class TotalProgress:
    """Progress of all files together, of which `total_bytes` are fetched, in parallel or one after the other.

    `rate_bytes_per_s` is the sum over the files in transfer. Between two files, and for files that end before their own
    rate is known, it is that of all files in the last ten seconds. 0 while neither is known.
    """

    def __init__(self, total_bytes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.total_bytes = total_bytes
        self.rate_bytes_per_s = 0.0
        self._clock = clock
        self._files: dict[str, Progress] = {}
        self._began_s: dict[str, float] = {}
        """When the first bytes of each file were reported, by its label."""
        self._meter = Meter(window_s=_TOTAL_WINDOW_S, clock=clock)

    def update(self, progress: Progress) -> None:
        before = self._files.get(progress.label)
        fetched = max(0, progress.fetched_bytes - (before.fetched_bytes if before else 0))
        self._meter.count(fetched, fetched)
        self._files[progress.label] = progress
        if progress.fetched_bytes:
            self._began_s.setdefault(progress.label, self._clock())
        self.rate_bytes_per_s = self._rate()

    def _rate(self) -> float:
        recent = self._meter.rate_bytes_per_s()
        in_transfer = [file for file in self._unverified if file.fetched_bytes]
        if not in_transfer:
            # With few bytes, most of that time was spent waiting for responses: it says nothing about the bandwidth.
            return recent if recent * _TOTAL_WINDOW_S >= _MIN_RATE_BYTES else 0.0
        rate = sum(file.rate_bytes_per_s for file in in_transfer)
        is_young = all(self._clock() < self._began_s[file.label] + _RATE_UNKNOWN_S for file in in_transfer)
        return self.rate_bytes_per_s if is_young and not rate else rate

    @property
    def done_bytes(self) -> int:
        return min(self.total_bytes, sum(file.done_bytes for file in self._files.values()))

    @property
    def is_verifying(self) -> bool:
        """Whether the bytes of all files are received, and only their verification is left."""
        return 0 < self.total_bytes - self.done_bytes <= len(self._unverified)

    @property
    def left_s(self) -> float | None:
        return _left_s(self._unverified, self.total_bytes - self.done_bytes, self.rate_bytes_per_s)

    @property
    def _unverified(self) -> list[Progress]:
        return [file for file in self._files.values() if not file.is_verified]


class VerificationSpeed:
    """Measures how fast bytes are verified, and estimates the time for the others."""

    def __init__(self) -> None:
        self._bytes = 0
        self._seconds = 0.0

    def count(self, verified_bytes: int, seconds: float) -> None:
        self._bytes += verified_bytes
        self._seconds += seconds

    def left_s(self, left_bytes: int) -> float:
        rate = self._bytes / self._seconds if self._seconds else _DEFAULT_VERIFY_BYTES_PER_S
        return max(0, left_bytes) / rate


def _left_s(unverified: list[Progress], missing_bytes: int, rate_bytes_per_s: float) -> float | None:
    if not missing_bytes:
        return 0.0
    verify_s = 0.0
    for file in unverified:
        if file.verify_s is None:
            return None
        verify_s += file.verify_s
    if missing_bytes <= len(unverified):  # of each file only the last byte is missing, until it is verified
        return verify_s
    return missing_bytes / rate_bytes_per_s + verify_s if rate_bytes_per_s >= 1 else None
