"""How far a transfer is: of one file (`Progress`), and of all the files of one acquisition together (`Total`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Progress:
    """`done_bytes` of `total_bytes` are there; `resumed_bytes` of them were there before, and hold.
    `transferred_bytes` came over the network, at `rate_bytes_per_s` in the last seconds.
    """

    label: str
    done_bytes: int
    total_bytes: int
    transferred_bytes: int
    resumed_bytes: int
    rate_bytes_per_s: float

    @property
    def left_s(self) -> float | None:
        """The time that is left at this rate; None while nothing moves."""
        return left_s(self.total_bytes - self.done_bytes, self.rate_bytes_per_s)


Moved = Callable[[Progress], None]


class Watch(Protocol):
    """Who is told how an acquisition goes, from its own thread and a few times a second."""

    def begin(self, total_bytes: int) -> None:
        """So much is to come, of all files together."""

    def moved(self, progress: Progress) -> None: ...


class Total:
    """All files together, of which `total_bytes` are to come."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.rate_bytes_per_s = 0.0
        self._done: dict[str, int] = {}

    def take(self, progress: Progress) -> None:
        self._done[progress.label] = progress.done_bytes
        self.rate_bytes_per_s = progress.rate_bytes_per_s

    @property
    def done_bytes(self) -> int:
        return min(self.total_bytes, sum(self._done.values()))

    @property
    def left_s(self) -> float | None:
        return left_s(self.total_bytes - self.done_bytes, self.rate_bytes_per_s)


def left_s(missing_bytes: int, rate_bytes_per_s: float) -> float | None:
    if not missing_bytes:
        return 0.0
    return missing_bytes / rate_bytes_per_s if rate_bytes_per_s >= 1 else None
