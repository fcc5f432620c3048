"""Poll for a condition that another thread, process or server fulfils."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def wait_for_value(find: Callable[[], T | None], *, limit_s: float = 60.0, every_s: float = 0.02) -> T:
    """Call `find` until it returns a value that is not None. The limit only keeps a failing test from hanging."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if (value := find()) is not None:
            return value
        time.sleep(every_s)
    raise AssertionError(f"no value within {limit_s} s")


def wait_for(condition: Callable[[], Any], *, limit_s: float = 30.0, every_s: float = 0.02) -> float:
    """Call `condition` until it is true, and return how many seconds that took."""
    began = time.monotonic()
    while time.monotonic() - began < limit_s:
        if condition():
            return time.monotonic() - began
        time.sleep(every_s)
    raise AssertionError(f"the condition did not become true within {limit_s} s")
