"""Poll for a condition that another thread, process or server fulfils."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for_value(find: Callable[[], T | None], *, limit_s: float = 60.0, every_s: float = 0.02) -> T:
    """Call `find` until it returns a value that is not None. The limit only keeps a failing test from hanging."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if (value := find()) is not None:
            return value
        time.sleep(every_s)
    raise AssertionError(f"no value within {limit_s} s")
