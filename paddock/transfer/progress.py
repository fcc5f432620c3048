"""How far a transfer is: of one file (`Progress`), and of all the files of one acquisition together (`Total`).

Done bytes, rate and time left are about the same bytes: those that are in the file. Bytes that were there before are
done from the start, and are no speed. Verifying follows the bytes closely, and mostly costs no time of its own; where
it does (a large part that was there before, or a file that another engine brought), it is added to the time left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from paddock.model.acquired import Acquired
from paddock.transfer.limiter import Meter

_TOTAL_WINDOW_S = 10.0
_LEAST_OF_A_RATE_BYTES = 256 * 1024
_YOUNG_S = 1.0
"""For so long the rate of a file may not be known yet."""
_USUAL_VERIFY_BYTES_PER_S = 500e6


@dataclass(frozen=True, slots=True)
class Progress:
    """`done_bytes` of `total_bytes` are in the file; all of them only when the file is verified.

    `resumed_bytes` of them were there before. `transferred_bytes` came over the network: more than the rest where some
    came in vain. `rate_bytes_per_s` is how fast `done_bytes` grows lately, 0 while that cannot be told. `verify_s` is
    how long it will take to verify what is there and was not verified yet; None where nobody can tell, since parts are
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
        """How many of `done_bytes` this transfer brought."""
        return max(0, self.done_bytes - self.resumed_bytes)

    @property
    def is_verified(self) -> bool:
        return self.done_bytes == self.total_bytes

    @property
    def has_landed(self) -> bool:
        """Whether all bytes are in the file, and are being verified: the last one is not done before that."""
        return self.done_bytes == self.total_bytes - 1

    @property
    def left_s(self) -> float | None:
        """The time that is left at this rate; None while nothing moves, or nobody can tell."""
        return _left_s([self], self.total_bytes - self.done_bytes, self.rate_bytes_per_s)


OnProgress = Callable[[Progress], None]


class ProgressListener(Protocol):
    """Listens to the progress of an acquisition. Called from the acquisition's own thread."""

    def begin(self, total_bytes: int) -> None:
        """Called once, before the first file, with the bytes that all files together will fetch."""
        ...

    def moved(self, progress: Progress) -> None:
        """Called a few times a second with the progress of one file."""
        ...

    def finished(self, acquired: Sequence[Acquired]) -> None:
        """Called once, when all files are on the volume."""
        ...


class Total:
    """All files together, of which `total_bytes` are to come. They may come at once, or one after the other.

    `rate_bytes_per_s` is the sum over the files that come. Between two files, and for files that are over before a rate
    of their own can be told, it is what all files brought in the last ten seconds. 0 while neither can be told.
    """

    def __init__(self, total_bytes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.total_bytes = total_bytes
        self.rate_bytes_per_s = 0.0
        self._clock = clock
        self._files: dict[str, Progress] = {}
        self._began_s: dict[str, float] = {}
        """When the first bytes of each file were reported."""
        self._meter = Meter(window_s=_TOTAL_WINDOW_S, clock=clock)

    def take(self, progress: Progress) -> None:
        before = self._files.get(progress.label)
        fetched = max(0, progress.fetched_bytes - (before.fetched_bytes if before else 0))
        self._meter.count(fetched, fetched)
        self._files[progress.label] = progress
        if progress.fetched_bytes:
            self._began_s.setdefault(progress.label, self._clock())
        self.rate_bytes_per_s = self._rate()

    def _rate(self) -> float:
        together = self._meter.rate_bytes_per_s()
        coming = [file for file in self._moving if file.fetched_bytes]
        if not coming:
            # Few bytes in that time were mostly waited for: no rate of the line.
            return together if together * _TOTAL_WINDOW_S >= _LEAST_OF_A_RATE_BYTES else 0.0
        rate = sum(file.rate_bytes_per_s for file in coming)
        is_young = all(self._clock() < self._began_s[file.label] + _YOUNG_S for file in coming)
        return self.rate_bytes_per_s if is_young and not rate else rate

    @property
    def done_bytes(self) -> int:
        return min(self.total_bytes, sum(file.done_bytes for file in self._files.values()))

    @property
    def has_landed(self) -> bool:
        """Whether the bytes of all files are there, and are being verified."""
        return 0 < self.total_bytes - self.done_bytes <= len(self._moving)

    @property
    def left_s(self) -> float | None:
        return _left_s(self._moving, self.total_bytes - self.done_bytes, self.rate_bytes_per_s)

    @property
    def _moving(self) -> list[Progress]:
        return [file for file in self._files.values() if not file.is_verified]


class Verification:
    """How fast bytes are verified, and so how long it takes for those that are left."""

    def __init__(self) -> None:
        self._bytes = 0
        self._seconds = 0.0

    def count(self, verified_bytes: int, seconds: float) -> None:
        self._bytes += verified_bytes
        self._seconds += seconds

    def left_s(self, left_bytes: int) -> float:
        rate = self._bytes / self._seconds if self._seconds else _USUAL_VERIFY_BYTES_PER_S
        return max(0, left_bytes) / rate


def _left_s(moving: list[Progress], missing_bytes: int, rate_bytes_per_s: float) -> float | None:
    if not missing_bytes:
        return 0.0
    verify_s = 0.0
    for file in moving:
        if file.verify_s is None:
            return None
        verify_s += file.verify_s
    if missing_bytes <= len(moving):  # each lacks its last byte until it is verified
        return verify_s
    return missing_bytes / rate_bytes_per_s + verify_s if rate_bytes_per_s >= 1 else None
