"""Measure how long the phases of a command take.

    with phase("fetch"):
        ...

A phase that runs inside another one is not counted in that one, so that the seconds of all phases add up to those of
the command. Phases of other threads are not counted: the thread of the command waits for them in a phase of its own.
Nothing is measured before `start`, and a phase costs a microsecond then.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

START: Final = "start"
"""The phase from the start of the process to the first other one: the interpreter, imports and settings."""
OTHER: Final = "other"


class _Stopwatch:
    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._at = _process_start()
        self._running = [START]
        self._seconds: dict[str, float] = {}

    def enter(self, name: str) -> bool:
        if threading.get_ident() != self._thread:
            return False
        self._count()
        self._running = [OTHER] if self._running == [START] else self._running
        self._running.append(name)
        return True

    def leave(self) -> None:
        self._count()
        self._running.pop()

    def seconds(self) -> dict[str, float]:
        self._count()
        rounded = {name: round(seconds, 3) for name, seconds in self._seconds.items()}
        return {**rounded, "total": round(sum(self._seconds.values()), 3)}

    def _count(self) -> None:
        now = time.monotonic()
        name = self._running[-1]
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._at
        self._at = now


_stopwatch: _Stopwatch | None = None


def start() -> None:
    """Measure the phases of this process, for the thread that calls this."""
    global _stopwatch  # noqa: PLW0603 - a process runs one command
    _stopwatch = _Stopwatch()


def stop() -> dict[str, float] | None:
    """End the measurement, and return its result as `elapsed`."""
    global _stopwatch
    measured, _stopwatch = elapsed(), None
    return measured


def elapsed() -> dict[str, float] | None:
    """The seconds of each phase so far, in the order in which they began, and their `total`. None without `start`."""
    return _stopwatch.seconds() if _stopwatch else None


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Count the seconds of a block for a phase."""
    stopwatch = _stopwatch
    if stopwatch is None or not stopwatch.enter(name):
        yield
        return
    try:
        yield
    finally:
        stopwatch.leave()


def _process_start() -> float:
    """The time on the monotonic clock at which this process started, to a hundredth of a second; now where the system
    does not say."""
    now = time.monotonic()
    try:
        with open("/proc/self/stat", "rb") as status:  # noqa: PTH123 - one read, before anything else is imported
            ticks = int(status.read().rpartition(b")")[2].split()[19])
        since_boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, ValueError, IndexError, AttributeError):
        return now
    return min(now, now - since_boot_s + ticks / os.sysconf("SC_CLK_TCK"))
