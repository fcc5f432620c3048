"""Waiting for what another thread, process or server does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for_value(find: Callable[[], T | None], *, limit_s: float = 60.0, every_s: float = 0.02) -> T:
    """The first value that is not None. The limit is for a test that would hang, and no promise of anything."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if (found := find()) is not None:
            return found
        time.sleep(every_s)
    raise AssertionError(f"not within {limit_s} s")
